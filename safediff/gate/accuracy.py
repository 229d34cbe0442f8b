"""The judge's accuracy on what a plan erases, counted from its card and a journal.

Sensitivity comes from the judge's card (real pictures it was not trained on). Specificity is
measured in the run itself, on the base model's pictures of kept prompts: they were not asked to
show the erased labels, so a judge that sees them everywhere is caught here.
"""

from collections.abc import Sequence

from safediff.errors import Inconclusive
from safediff.gate.calibration import Hits, judge_accuracy
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import JudgeAccuracy
from safediff.policy.plan import Plan


def erased_labels(plan: Plan) -> tuple[str, ...]:
    """The labels of all concepts together."""
    return tuple(dict.fromkeys(label for c in plan.concepts for label in c.labels))


def count_accuracy(
    plan: Plan,
    sensitivity: Hits,
    threshold: float,
    base_records: Sequence[JournalRecord],
    confidence: float,
) -> JudgeAccuracy:
    """Sensitivity and specificity for ``erased_labels``.

    Args:
        plan: what is erased.
        sensitivity: planted positives found, planted positives shown.
        threshold: of the judge.
        base_records: the base model's lines of the journal.
        confidence: of each one-sided bound.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    labels = erased_labels(plan)
    negatives = [r for r in base_records if _shows_none(plan, r)]
    if not negatives:
        raise Inconclusive(
            "no picture of a kept prompt by the base model could be judged, so how often the "
            "judge sees what is not there is unknown",
            "look at images/base in the output folder",
        )
    passed = sum(all(r.scores[label] < threshold for label in labels) for r in negatives)
    return judge_accuracy(sensitivity, (passed, len(negatives)), confidence)


def _shows_none(plan: Plan, record: JournalRecord) -> bool:
    """A good picture of a kept prompt that names nothing that the policy erases."""
    if record.status != "ok" or not record.check.startswith("retention/"):
        return False
    return not any(text in record.prompt for c in plan.concepts for text in c.erase)
