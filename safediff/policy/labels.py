"""Judge labels that are known before the judge is loaded."""

from collections.abc import Iterable

from safediff.build.names import NAMES
from safediff.judge.nudity_rules import CLASSES
from safediff.policy.content import check_text
from safediff.policy.desk import Desk
from safediff.policy.problems import Loc, did_you_mean

STYLES = ("noto", "twemoji", "fluent")

_KNOWN = {
    "embedded": frozenset((*NAMES, *(f"{style} style" for style in STYLES))),
    "nudenet": frozenset(("nudity", *CLASSES)),
    "q16": frozenset(("inappropriate",)),
}
"""Open-vocabulary judges are missing here: they take any text."""


def check_labels(desk: Desk, judge: str, labels: Iterable[str], loc: Loc) -> None:
    """Refuse labels that the judge cannot give (those against content rules already are)."""
    known = _KNOWN.get(judge)
    if known is None:
        return
    for index, label in enumerate(labels):
        if label not in known and check_text(label) is None:
            at = (*loc, index) if (*loc, index) in desk.source.marks else loc
            hint = did_you_mean(label, known)
            desk.source.refuse(at, f"judge '{judge}' has no label '{label}'{hint}")
