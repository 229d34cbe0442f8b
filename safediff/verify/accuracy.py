"""The accuracy of a loaded judge on what a plan erases."""

from collections.abc import Sequence

from safediff.gate.accuracy import count_accuracy, erased_labels
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import JudgeAccuracy
from safediff.judge.base import Judge
from safediff.policy.plan import Plan


def measure_accuracy(
    plan: Plan, judge: Judge, base_records: Sequence[JournalRecord], confidence: float
) -> JudgeAccuracy:
    """Sensitivity from the judge's card, specificity from the base's pictures.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    card = judge.calibration(erased_labels(plan))
    planted = card.sensitivity_hits, card.num_positives
    return count_accuracy(plan, planted, judge.threshold, base_records, confidence)
