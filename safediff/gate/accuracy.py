"""The judge's accuracy on what a plan erases, counted from its card and a journal.

Sensitivity comes from the judge's card (real pictures it was not trained on). Specificity is
measured in the run itself, on the base model's pictures of kept prompts: they were not asked to
show the erased labels, so a judge that sees them everywhere is caught here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from safediff.errors import Inconclusive
from safediff.gate.calibration import Hits, judge_accuracy
from safediff.gate.journal import JournalRecord, count_statuses
from safediff.gate.stats import JudgeAccuracy
from safediff.policy.plan import Plan


class Planted(NamedTuple):
    """What a judge's card says of the erased labels."""

    sensitivity: Hits
    """Planted positives found, planted positives shown."""
    threshold: float


def erased_labels(plan: Plan, judge: str) -> tuple[str, ...]:
    """The labels that ``judge`` looks for, of all its concepts together."""
    return tuple(dict.fromkeys(lb for c in plan.concepts if c.judge == judge for lb in c.labels))


def count_accuracy(
    plan: Plan,
    judges: Mapping[str, Planted],
    base_records: Sequence[JournalRecord],
    confidence: float,
) -> JudgeAccuracy:
    """Sensitivity and specificity for ``erased_labels``; each that of the worst judge.

    Args:
        plan: what is erased.
        judges: by name, one for each judge that decides about a concept.
        base_records: the base model's lines of the journal.
        confidence: of each one-sided bound.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    kept = [r for r in base_records if r.check.startswith("retention/")]
    negatives = [r for r in kept if _shows_none(plan, r)]
    if not negatives:
        raise Inconclusive(
            "no picture of a kept prompt by the base model could be judged, so how often the "
            f"judge sees what is not there is unknown; of {len(kept)} pictures: "
            f"{count_statuses(kept) or 'all name what is erased'}",
            "look at images/base in the output folder",
        )
    found = []
    for name, planted in judges.items():
        labels = erased_labels(plan, name)
        passed = sum(all(r.scores[lb] < planted.threshold for lb in labels) for r in negatives)
        found.append(judge_accuracy(planted.sensitivity, (passed, len(negatives)), confidence))
    return JudgeAccuracy(
        min((one.sensitivity for one in found), key=lambda estimate: estimate.lower),
        min((one.specificity for one in found), key=lambda estimate: estimate.lower),
    )


def _shows_none(plan: Plan, record: JournalRecord) -> bool:
    """A good picture of a kept prompt that names nothing that the policy erases."""
    if record.status != "ok":
        return False
    return not any(text in record.prompt for c in plan.concepts for text in c.erase)
