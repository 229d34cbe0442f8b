"""The accuracy of a loaded judge on what a plan erases."""

from collections.abc import Mapping, Sequence

from safediff.gate.accuracy import (
    PlanAccuracy,
    Planted,
    best_accuracy,
    count_accuracy,
    erased_labels,
)
from safediff.gate.foreseen import require_provable
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import Hits
from safediff.judge.base import Judge
from safediff.policy.plan import Plan


def measure_accuracy(
    plan: Plan,
    judges: Mapping[str, Judge],
    base_records: Sequence[JournalRecord],
    confidence: float,
) -> PlanAccuracy:
    """Sensitivity from the judges' cards, specificity from the base's pictures.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    thresholds = {name: judge.threshold for name, judge in judges.items()}
    return count_accuracy(plan, _planted(plan, judges), thresholds, base_records, confidence)


def prove_limits(plan: Plan, judges: Mapping[str, Judge]) -> None:
    """Refuse limits that no result could meet, given how well the judges see.

    Raises:
        Inconclusive: a judge misses too much, or prompts are too few.
    """
    confidence = plan.verify.erasure.confidence
    require_provable(plan, best_accuracy(plan, _planted(plan, judges), confidence))


def _planted(plan: Plan, judges: Mapping[str, Judge]) -> dict[str, Planted]:
    return {
        name: Planted(
            sensitivity=_positives(judges[name], erased_labels(plan, name)),
            by_concept=positives_by_concept(plan, name, judges[name]),
        )
        for name in dict.fromkeys(concept.judge for concept in plan.concepts)
    }


def positives_by_concept(plan: Plan, name: str, judge: Judge) -> dict[str, Hits]:
    """Planted positives found and shown, for each concept that the judge of this name decides."""
    return {c.name: _positives(judge, c.labels) for c in plan.concepts if c.judge == name}


def _positives(judge: Judge, labels: Sequence[str]) -> Hits:
    card = judge.calibration(labels)
    return card.sensitivity_hits, card.num_positives
