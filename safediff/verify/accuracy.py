"""The accuracy of a loaded judge on what a plan erases."""

from collections.abc import Mapping, Sequence

from safediff.gate.accuracy import Planted, count_accuracy, erased_labels
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import JudgeAccuracy
from safediff.judge.base import Judge
from safediff.policy.plan import Plan


def measure_accuracy(
    plan: Plan,
    judges: Mapping[str, Judge],
    base_records: Sequence[JournalRecord],
    confidence: float,
) -> JudgeAccuracy:
    """Sensitivity from the judge's card, specificity from the base's pictures.

    Where concepts have several judges, each of the two is that of the worst.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    names = dict.fromkeys(concept.judge for concept in plan.concepts)
    cards = {name: judges[name].calibration(erased_labels(plan, name)) for name in names}
    planted = {
        name: Planted((card.sensitivity_hits, card.num_positives), judges[name].threshold)
        for name, card in cards.items()
    }
    return count_accuracy(plan, planted, base_records, confidence)
