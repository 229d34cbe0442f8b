"""Loads judges by the name that a policy gives."""

from collections.abc import Iterable

from safediff.errors import Inconclusive
from safediff.judge.base import Judge


def load_judges(names: Iterable[str]) -> dict[str, Judge]:
    """One judge per name.

    Raises:
        Inconclusive: a judge is not part of this version, or its weights cannot be read.
    """
    from safediff.judge.embedded import EmbeddedJudge

    judges: dict[str, Judge] = {}
    for name in sorted(set(names)):
        if name != EmbeddedJudge.name:
            raise Inconclusive(
                f"judge {name!r} is not part of this version of safediff",
                f"use the judge {EmbeddedJudge.name!r}, or measure with another tool",
            )
        judges[name] = EmbeddedJudge()
    return judges
