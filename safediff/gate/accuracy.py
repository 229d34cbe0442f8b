"""The accuracy of judges on what a plan asks them, counted from their cards and a journal.

Sensitivity comes from a judge's card (real pictures it was not trained on). Specificity is measured
in the run itself, on the base model's pictures of kept prompts: they were not asked to show the
erased labels, so a judge that sees them everywhere is caught here. Nobody looked at them, so one
may show a label all the same; what is seen there is therefore never taken off an upper bound
(``safediff.gate.stats.corrected``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from safediff.errors import Inconclusive
from safediff.gate.clusters import clustered_rate
from safediff.gate.confusion import count_confusion
from safediff.gate.journal import JournalRecord, count_statuses
from safediff.gate.stats import Estimate, Hits, JudgeAccuracy, rate
from safediff.policy.negatives import erased_texts, names_any
from safediff.policy.plan import Plan


class Planted(NamedTuple):
    """What a judge's card says of the labels that it looks for."""

    sensitivity: Hits
    """Planted positives found, planted positives shown; of all its concepts together."""
    by_concept: Mapping[str, Hits]


@dataclass(frozen=True, kw_only=True)
class PlanAccuracy:
    """How well judges see what a plan asks them, for each use that is made of it."""

    judge: JudgeAccuracy
    """Of the worst judge on all its labels together: whether judges are believed at all."""
    pooled: JudgeAccuracy
    """What corrects a rate over all concepts."""
    by_concept: Mapping[str, JudgeAccuracy]
    """Of each concept's own judge on its own labels: what corrects the concept's own rate."""
    confusion: Mapping[str, Estimate | None]
    """By retention group: ``safediff.gate.confusion.count_confusion``."""


def erased_labels(plan: Plan, judge: str) -> tuple[str, ...]:
    """The labels that ``judge`` looks for, of all its concepts together."""
    return tuple(dict.fromkeys(lb for c in plan.concepts if c.judge == judge for lb in c.labels))


def decided_by(plan: Plan, judge: str) -> tuple[str, ...]:
    """Ids of the checks whose pictures ``judge`` looks at."""
    erasure = (f"erasure/{concept.name}" for concept in plan.concepts if concept.judge == judge)
    kept = (f"retention/{g.name}" for g in plan.verify.retention if g.judge == judge)
    return (*erasure, *kept)


def count_accuracy(
    plan: Plan,
    judges: Mapping[str, Planted],
    thresholds: Mapping[str, float],
    base_records: Sequence[JournalRecord],
    confidence: float,
) -> PlanAccuracy:
    """Sensitivity and specificity of every judge and for every concept; confusion of kept things.

    Args:
        plan: what is erased.
        judges: by name, one for each judge that decides about a concept.
        thresholds: of every judge.
        base_records: the base model's lines of the journal.
        confidence: of each one-sided bound.

    Raises:
        Inconclusive: no kept picture of the base could be judged.
    """
    negatives = _negatives(plan, base_records)

    def specificity(name: str, labels: Iterable[str]) -> Estimate:
        limit = thresholds[name]
        passed = [sum(all(r.scores[lb] < limit for lb in labels) for r in p) for p in negatives]
        return clustered_rate(passed, plan.verify.sampling.images_per_prompt, confidence)

    confusion = count_confusion(plan, base_records, thresholds, confidence)
    return _put_together(plan, judges, specificity, confidence, confusion)


def best_accuracy(plan: Plan, judges: Mapping[str, Planted], confidence: float) -> PlanAccuracy:
    """What is known before a picture is drawn: sensitivity, beside judges without false alarms."""

    def flawless(name: str, labels: Iterable[str]) -> Estimate:
        return Estimate(1.0, 1.0, 1.0, 1, confidence, "assumed")

    return _put_together(plan, judges, flawless, confidence, {})


def _put_together(
    plan: Plan,
    judges: Mapping[str, Planted],
    specificity: Callable[[str, Iterable[str]], Estimate],
    confidence: float,
    confusion: Mapping[str, Estimate | None],
) -> PlanAccuracy:
    whole = [
        JudgeAccuracy(
            rate(*planted.sensitivity, confidence), specificity(name, erased_labels(plan, name))
        )
        for name, planted in judges.items()
    ]
    by_concept = {
        c.name: JudgeAccuracy(
            rate(*judges[c.judge].by_concept[c.name], confidence), specificity(c.judge, c.labels)
        )
        for c in plan.concepts
    }
    worst = JudgeAccuracy(
        min((one.sensitivity for one in whole), key=lambda estimate: estimate.lower),
        min((one.specificity for one in whole), key=lambda estimate: estimate.lower),
    )
    return PlanAccuracy(
        judge=worst,
        pooled=pooled_accuracy([one.sensitivity for one in whole], [*by_concept.values()]),
        by_concept=by_concept,
        confusion=confusion,
    )


def pooled_accuracy(judges: Sequence[Estimate], concepts: Sequence[JudgeAccuracy]) -> JudgeAccuracy:
    """What corrects a rate that several concepts share.

    A dozen pictures a label bound each label's sensitivity loosely, for want of pictures and not
    of sight; so the labels' counts are taken together, as the rate takes their prompts together.
    That understates the rate if what is left is what the judge sees worst: the lower end is
    therefore that of any concept that is proven to be seen worse than the whole. A picture is a
    hit by the labels of its own concept, so the specificity is a concept's: the highest, which
    takes the least off, with the lowest of all lower ends.

    Args:
        judges: sensitivity of each on all its labels together; the worst one counts.
        concepts: accuracy for each of them.
    """
    worst = min(judges, key=lambda estimate: estimate.lower)
    worse = [c.sensitivity.lower for c in concepts if c.sensitivity.upper < worst.lower]
    highest = max((c.specificity for c in concepts), key=lambda estimate: estimate.value)
    return JudgeAccuracy(
        worst._replace(
            lower=min([worst.lower, *worse]), upper=max(estimate.upper for estimate in judges)
        ),
        highest._replace(lower=min(c.specificity.lower for c in concepts)),
    )


def _negatives(plan: Plan, base_records: Sequence[JournalRecord]) -> list[list[JournalRecord]]:
    """The base's pictures of every kept prompt that asks for nothing erased, each picture once.

    Prompts with a picture that failed are left out; the retention checks do not pass then.
    """
    kept = {(r.prompt, r.index): r for r in base_records if r.check.startswith("retention/")}
    erased = erased_texts(plan.concepts)
    by_prompt: dict[str, list[JournalRecord]] = {}
    for record in kept.values():
        if not names_any(record.prompt, erased):
            by_prompt.setdefault(record.prompt, []).append(record)
    count = plan.verify.sampling.images_per_prompt
    whole = [
        records
        for records in by_prompt.values()
        if sum(record.status == "ok" for record in records) == count
    ]
    if not whole:
        records = [*kept.values()]
        raise Inconclusive(
            "no picture of a kept prompt by the base model could be judged, so how often the "
            f"judge sees what is not there is unknown; of {len(records)} pictures: "
            f"{count_statuses(records) or 'all name what is erased'}",
            "look at images/base in the output folder",
        )
    return whole
