"""All checks of the gate: pure functions from numbers to results, and how they bear on each other.

``cross_check`` is applied to the finished list before a report is made of it.
"""

from collections.abc import Sequence
from dataclasses import replace

from safediff.gate.calibration import base_rate, judge_calibration
from safediff.gate.confusion import judge_confusion
from safediff.gate.distances import edit_survival, parity, quality
from safediff.gate.erasing import ConceptHits, erasure
from safediff.gate.keeping import collapse, retention
from safediff.gate.robustness import ALIGNMENT, alignment, not_applicable, robustness
from safediff.gate.verdict import CheckResult, Verdict

__all__ = [
    "ConceptHits",
    "alignment",
    "base_rate",
    "collapse",
    "cross_check",
    "edit_survival",
    "erasure",
    "judge_calibration",
    "judge_confusion",
    "not_applicable",
    "parity",
    "quality",
    "retention",
    "robustness",
]

JUDGED_KINDS = ("base", "collapse", "erasure", "robustness", "retention")
ABSENCE_KINDS = ("erasure", "robustness")
"""They count how seldom something is seen."""


def cross_check(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """Withdraw results that another result undermines.

    Where the judge missed its calibration, everything it decided becomes INCONCLUSIVE. Where the
    model collapsed, or whether it did is unknown, a low concept rate is no erasure: every erasure
    and robustness row that is not FAIL becomes INCONCLUSIVE.
    """
    distrusted = any(r.kind == "calibration" and r.verdict is not Verdict.PASS for r in results)
    collapsed = [r for r in results if r.kind == "collapse" and r.verdict is not Verdict.PASS]
    settled = []
    for found in results:
        if distrusted and found.kind in JUDGED_KINDS and found.id != ALIGNMENT:
            found = _withdraw(found, "the judge missed its calibration")
        elif collapsed and found.kind in ABSENCE_KINDS and found.verdict is not Verdict.FAIL:
            known = collapsed[0].verdict is Verdict.FAIL
            found = _withdraw(
                found, "model collapsed" if known else "whether the model collapsed is unknown"
            )
        settled.append(found)
    return tuple(settled)


def _withdraw(found: CheckResult, reason: str) -> CheckResult:
    message = f"Not believed, {reason}: {found.message[0].lower()}{found.message[1:]}"
    details = {**found.details, "withdrawn": found.verdict.value}
    return replace(found, verdict=Verdict.INCONCLUSIVE, message=message, details=details)
