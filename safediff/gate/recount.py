"""Count hits again from a journal and a plan, without images, models or judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from safediff.errors import UsageError
from safediff.gate.clusters import Bools
from safediff.gate.journal import JournalContents, JournalRecord, standing
from safediff.policy.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one subject's pictures of one check amount to."""

    prompts: tuple[str, ...]
    """Prompts drawn, in the plan's order."""
    hits: Bools
    """(prompts, pictures per prompt). Erasure: a concept's label is present. Retention: all are."""
    failures_per_prompt: tuple[int, ...]
    """Pictures that failed or are missing; their hit is False."""

    @property
    def num_failures(self) -> int:
        """Of all prompts together."""
        return sum(self.failures_per_prompt)

    @property
    def hits_per_prompt(self) -> tuple[int, ...]:
        """Number of hits of every prompt."""
        return tuple(int(count) for count in self.hits.sum(axis=1))

    def only(self, prompts: Sequence[str]) -> "Tally":
        """Some of the prompts, in the given order; none of them may be missing."""
        where = {prompt: row for row, prompt in enumerate(self.prompts)}
        rows = [where[prompt] for prompt in prompts]
        return Tally(
            prompts=tuple(prompts),
            hits=self.hits[rows],
            failures_per_prompt=tuple(self.failures_per_prompt[row] for row in rows),
        )


def recount(journal: JournalContents, plan: Plan) -> dict[tuple[str, str], Tally]:
    """Count the hits of every (subject, check) with an erasure or retention check.

    Pictures drawn for other purposes are left out. Tallies of one check by different subjects line
    up wherever their ``prompts`` are equal. Where a stopping rule decided what was drawn, a prompt
    counts once all its pictures are there.

    Raises:
        UsageError: the journal belongs to another plan, holds a prompt that the plan lacks, lacks
            a score that the plan asks about, or holds one picture twice with different contents.
    """
    if journal.header.plan_sha256 != plan.sha256:
        raise UsageError(
            f"journal was written for plan {journal.header.plan_sha256[:12]}, "
            f"not for {plan.sha256[:12]}",
            next_step="verify again with this policy",
        )
    groups: dict[tuple[str, str], dict[tuple[str, int], JournalRecord]] = {}
    for record in standing(journal.records):
        if record.check.split("/")[0] in ("erasure", "retention"):
            group = groups.setdefault((record.subject, record.check), {})
            group[(record.prompt, record.index)] = record
    per_prompt = plan.verify.sampling.images_per_prompt
    if journal.header.stopping is not None:
        groups = {key: _complete(group, per_prompt) for key, group in groups.items()}
    return {
        (subject, check): _tally(plan, check, group, per_prompt, journal.header.thresholds)
        for (subject, check), group in groups.items()
    }


def _complete(
    group: Mapping[tuple[str, int], JournalRecord], per_prompt: int
) -> dict[tuple[str, int], JournalRecord]:
    """The records of prompts that have all their pictures."""
    return {
        key: record
        for key, record in group.items()
        if all((key[0], index) in group for index in range(per_prompt))
    }


def _tally(
    plan: Plan,
    check: str,
    group: Mapping[tuple[str, int], JournalRecord],
    per_prompt: int,
    thresholds: Mapping[str, float],
) -> Tally:
    drawn = tuple(dict.fromkeys(prompt for prompt, _ in group))
    labels, judge = _rule(plan, check, drawn)
    if judge not in thresholds:
        raise UsageError(f"journal lacks the threshold of judge {judge!r}, needed for {check}")
    unknown = [prompt for prompt in drawn if prompt not in labels]
    if unknown:
        raise UsageError(
            f"journal has pictures for {check} of prompts that the plan lacks: {unknown}"
        )
    prompts = tuple(prompt for prompt in labels if prompt in set(drawn))
    needs_all = check.startswith("retention/")
    hits = np.zeros((len(prompts), per_prompt), dtype=np.bool_)
    failures = [0] * len(prompts)
    for row, prompt in enumerate(prompts):
        for index in range(per_prompt):
            record = group.get((prompt, index))
            if record is None or record.status != "ok":
                failures[row] += 1
                continue
            present = [_present(record, label, thresholds[judge]) for label in labels[prompt]]
            hits[row, index] = all(present) if needs_all else any(present)
    return Tally(prompts=prompts, hits=hits, failures_per_prompt=tuple(failures))


def _rule(plan: Plan, check: str, drawn: tuple[str, ...]) -> tuple[dict[str, tuple[str, ...]], str]:
    """Labels by prompt, in the plan's order, and the judge that looks for them.

    Prompts of a hub dataset take the labels of their concept.
    """
    kind, _, name = check.partition("/")
    for concept in plan.concepts:
        if (kind, name) == ("erasure", concept.name):
            extra = dict.fromkeys(drawn, concept.labels) if concept.hub_prompts else {}
            return {**{p.prompt: p.labels for p in concept.prompts}, **extra}, concept.judge
    for planned in plan.verify.retention:
        if (kind, name) == ("retention", planned.name):
            return {p.prompt: p.labels for p in planned.prompts}, planned.judge
    raise UsageError(f"journal has pictures for {check}, which the plan lacks")


def _present(record: JournalRecord, label: str, threshold: float) -> bool:
    if label not in record.scores:
        raise UsageError(f"journal lacks the score of {label!r} for the picture {record.key}")
    return record.scores[label] >= threshold
