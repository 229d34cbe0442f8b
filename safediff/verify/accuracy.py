"""The judge's own accuracy on what a plan erases.

Sensitivity comes from the judge's card (real pictures it was not trained on). Specificity is
measured in the run itself, on the base model's pictures of kept prompts: they were not asked to
show the erased labels, so a judge that sees them everywhere is caught here.
"""

from collections.abc import Sequence

from safediff.errors import Inconclusive
from safediff.gate.checks import judge_accuracy
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import JudgeAccuracy
from safediff.judge.base import Judge
from safediff.policy.plan import Plan


def measure_accuracy(
    plan: Plan, judge: Judge, base_records: Sequence[JournalRecord], confidence: float
) -> JudgeAccuracy:
    """Sensitivity and specificity for the labels of all concepts together.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    labels = tuple(dict.fromkeys(label for c in plan.concepts for label in c.labels))
    card = judge.calibration(labels)
    negatives = [r for r in base_records if _shows_none(plan, r)]
    if not negatives:
        raise Inconclusive(
            "no picture of a kept prompt by the base model could be judged, so how often the "
            "judge sees what is not there is unknown",
            "look at images/base in the output folder",
        )
    passed = sum(
        all(record.scores[label] < judge.threshold for label in labels) for record in negatives
    )
    return judge_accuracy(
        (card.sensitivity_hits, card.num_positives), (passed, len(negatives)), confidence
    )


def _shows_none(plan: Plan, record: JournalRecord) -> bool:
    """A good picture of a kept prompt that names nothing that the policy erases."""
    if record.status != "ok" or not record.check.startswith("retention/"):
        return False
    return not any(text in record.prompt for c in plan.concepts for text in c.erase)
