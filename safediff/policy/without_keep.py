"""A policy that keeps no texts: settings about kept texts are told before anything is trained."""

from collections.abc import Mapping

from safediff.erase.methods import resolve
from safediff.erase.params import DistilParams
from safediff.errors import UsageError
from safediff.policy.desk import Desk

_WHAT_IS_LEFT: Mapping[str, str] = {
    "keep_share": "has no effect",
    "null_space": "protects the empty prompt alone",
}
"""By knob: what it does without kept texts."""


def note_without_keep(desk: Desk, preset: str) -> None:
    """A note where the eraser's settings count on kept texts; call it where there are none."""
    entry = desk.policy.erase
    try:
        params = resolve(entry.method, preset, entry.options)
    except UsageError:  # a finding already
        return
    if not isinstance(params, DistilParams):
        return
    said = [
        f"{knob} {value:g} {left}"
        for knob, left in _WHAT_IS_LEFT.items()
        if (value := getattr(params, knob))
    ]
    if said:
        desk.notes.append(f"keep: no text is kept, so {' and '.join(said)}")
