"""Where the policy's own eraser stands among others: who erases as much, who keeps as much."""

from collections.abc import Iterable
from typing import NamedTuple

from safediff.compare.entry import Entry
from safediff.compare.rows import ROWS
from safediff.compare.table import Comparison, erasure_checks, retention_checks
from safediff.gate.numbers import show


class Standing(NamedTuple):
    """Other systems at or ahead of the policy's own row in every bound that decides."""

    erasing: tuple[Entry, ...]
    """None of their upper bounds of what is left is above its."""
    keeping: tuple[Entry, ...]
    """None of their lower bounds of what is kept is below its."""

    @property
    def both(self) -> list[Entry]:
        """Rows that a reader may prefer on these numbers alone."""
        return [entry for entry in self.erasing if entry in self.keeping]


def standing(comparison: Comparison) -> Standing:
    """Compare bounds, not estimates: they are what a policy decides by."""
    own, (gated, _) = comparison.reference, erasure_checks(comparison)
    kept = retention_checks(comparison.entries)
    others = [entry for entry in comparison.entries if not _is_own(entry)]
    return Standing(
        erasing=tuple(e for e in others if all(_upper(e, id) <= _upper(own, id) for id in gated)),
        keeping=tuple(e for e in others if all(_lower(e, id) >= _lower(own, id) for id in kept)),
    )


def _is_own(entry: Entry) -> bool:
    """The policy's row, or a variant of it: its student, another seed, as LoRA."""
    return entry.id in ROWS and ROWS[entry.id].own


def told(comparison: Comparison) -> list[str]:
    """The same in words, for below the table."""
    found, own = standing(comparison), comparison.reference.title
    gated, _ = erasure_checks(comparison)
    lines = [f'Other systems beside "{own}", by the bounds that decide:', ""]
    lines += [f"- erase at least as much: {_names(found.erasing)};"]
    lines += [f"- keep at least as much of every group: {_names(found.keeping)};"]
    if found.keeping and gated:
        best = min(found.keeping, key=lambda entry: _worst(entry, gated))
        lowest = f"{best.title}, {show(_worst(best, gated))}"
        lines += [f"- the lowest erasure bound of those: {lowest};"]
    return [*lines, f"- both: {_names(found.both)}.", ""]


def _names(entries: Iterable[Entry]) -> str:
    return ", ".join(entry.title for entry in entries) or "none"


def _worst(entry: Entry, gated: Iterable[str]) -> float:
    return max(_upper(entry, id) for id in gated)


def _upper(entry: Entry, id: str) -> float:
    """1 where nothing was measured: nothing is claimed."""
    value = entry.checks.get(id)
    return 1.0 if value is None or value.upper is None else value.upper


def _lower(entry: Entry, id: str) -> float:
    """0 where nothing was measured."""
    value = entry.checks.get(id)
    return 0.0 if value is None or value.lower is None else value.lower
