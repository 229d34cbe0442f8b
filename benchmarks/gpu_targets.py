"""What the rows of ``gpu_erase.py`` come to: targets met or not, times the published loop.

Rows are the measurements by name, ``FAMILY erase: SETTING`` and ``FAMILY reference loop, DTYPE``.
Nothing is measured here.
"""

from collections.abc import Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]
TARGETS = {"sd1": {"minutes": 5.0, "gb": 8.0}, "sdxl": {"minutes": 20.0, "gb": 16.0}}
"""What erasing one policy should take at most: minutes of the whole recipe, and the size of the
card that would do. Cards of so many GB have as many GiB."""
MEASURED = {"minutes": "minutes_of_the_recipe", "gb": "device_used_gib"}
"""Keys of a row; the device's memory includes the driver's share and what PyTorch reserves."""


def targets(rows: Rows, tiny: bool = False) -> dict[str, dict[str, Any]]:
    """By family: the targets, each setting against them, and whether one setting meets both.

    ``met`` is None where it was not measured, or was measured on ``tiny`` networks.
    """
    found = {}
    for family, limits in TARGETS.items():
        settings = {
            name: _against(row, limits, tiny)
            for name, row in rows.items()
            if name.startswith(f"{family} erase: ")
        }
        verdicts = {
            name: all_of([one["met"] for one in s.values()]) for name, s in settings.items()
        }
        found[family] = {
            **limits,
            "met_by": [name for name, met in verdicts.items() if met],
            "met": any_of(list(verdicts.values())),
            "settings": settings,
        }
    return found


def _against(row: Mapping[str, Any], limits: Mapping[str, float], tiny: bool) -> dict[str, Any]:
    """Each target with what was measured."""
    found = {}
    for what, limit in limits.items():
        measured = row.get(MEASURED[what])
        met = None if tiny or measured is None else measured <= limit
        found[what] = {"target": limit, "measured": measured, "met": met}
    return found


def all_of(verdicts: list[bool | None]) -> bool | None:
    """False if one is, else None if one is, or none is there."""
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


def any_of(verdicts: list[bool | None]) -> bool | None:
    """True if one is, else None if one is, or none is there."""
    if True in verdicts:
        return True
    return None if None in verdicts or not verdicts else False


def times_reference(rows: Rows) -> dict[str, dict[str, dict[str, float]]]:
    """By setting, then by reference loop of its family: how many times as fast it is.

    ``recipe``: minutes of the loop's recipe over those of the setting's; ``pass``: passes a second.
    """
    return {
        name: {
            reference: {
                "recipe": loop["minutes_of_the_recipe"] / row["minutes_of_the_recipe"],
                "pass": row["passes_per_s"] / loop["passes_per_s"],
            }
            for reference, loop in rows.items()
            if reference.startswith(f"{name.split()[0]} reference loop")
        }
        for name, row in rows.items()
        if " erase: " in name
    }
