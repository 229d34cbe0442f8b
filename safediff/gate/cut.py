"""Checks whose prompts were not all read whole say how many were cut."""

from collections.abc import Set
from dataclasses import replace

from safediff.gate.verdict import CheckResult

NUM_CUT = "num_prompts_cut"
"""In a check's details; missing where every prompt was read whole."""


def with_count(result: CheckResult, asked: Set[str], cut: Set[str]) -> CheckResult:
    """The result, with the number of its prompts that were cut.

    Args:
        result: as it was decided; one that nothing was drawn for stays as it is.
        asked: its prompts.
        cut: prompts of any check that were read up to the end of a text encoder's window.
    """
    count = len(asked & cut)
    if not count or not result.num_samples:
        return result
    told = f"{count} of {len(asked)} prompts were read up to the end of the text encoder's window"
    return replace(
        result,
        message=f"{result.message} {told}.",
        details={**result.details, NUM_CUT: count},
    )
