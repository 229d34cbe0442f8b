"""Every check that rests on counts, from one subject's tallies: no picture, model or judge."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from safediff.gate import checks
from safediff.gate.accuracy import PlanAccuracy
from safediff.gate.clusters import Bools
from safediff.gate.recount import Tally
from safediff.gate.sequential import Stop
from safediff.gate.stopping import BASE, Tallies
from safediff.gate.verdict import CheckResult
from safediff.policy.plan import Plan


def counted_checks(
    plan: Plan,
    tallies: Tallies,
    subject: str,
    accuracy: PlanAccuracy,
    stops: Mapping[str, Stop] | None = None,
) -> list[CheckResult]:
    """Calibration, base rate, collapse, erasure and retention, in the order of a report.

    Args:
        plan: the limits.
        tallies: of the base and the subject; under the sequential rule, up to the stops.
        subject: whose checks.
        accuracy: of the judges.
        stops: under the sequential rule, where each check stopped.
    """
    verify = plan.verify
    counts = {c.name: _hits(tallies, subject, f"erasure/{c.name}") for c in plan.concepts}
    pairs = {c.name: _pair(tallies, subject, f"retention/{c.name}") for c in verify.retention}
    return [
        *checks.judge_calibration(
            accuracy.judge,
            min_sensitivity=verify.judge_min_sensitivity,
            min_specificity=verify.judge_min_specificity,
            by_concept=accuracy.by_concept,
        ),
        checks.judge_confusion(accuracy.confusion),
        *_base_rates(plan, tallies),
        checks.collapse(
            *_kept_once(plan, tallies, subject),
            verify.collapse_min_ratio,
            num_failures=sum(failures for _, _, failures in pairs.values()),
        ),
        *checks.erasure(verify.erasure, counts, accuracy.pooled, accuracy.by_concept, stops),
        *(
            checks.retention(
                check,
                *pairs[check.name][:2],
                num_failures=pairs[check.name][2],
                stop=stops[f"retention/{check.name}"] if stops else None,
            )
            for check in verify.retention
        ),
    ]


def erasure_over_all(
    plan: Plan, tallies: Tallies, subject: str, accuracy: PlanAccuracy
) -> CheckResult:
    """The rate of all concepts together, for whoever compares; where each decides, not a check."""
    counts = {c.name: _hits(tallies, subject, f"erasure/{c.name}") for c in plan.concepts}
    check = replace(plan.verify.erasure, over="all")
    row, *_ = checks.erasure(check, counts, accuracy.pooled, accuracy.by_concept)
    return replace(row, gating=False)


def _base_rates(plan: Plan, tallies: Tallies) -> list[CheckResult]:
    """One for every bound; where concepts share one, a row for information for each of them."""
    erasure = plan.verify.erasure
    base = {c.name: tallies[BASE, f"erasure/{c.name}"] for c in plan.concepts}

    def row(concept: str, found: Sequence[Tally], gating: bool) -> CheckResult:
        return checks.base_rate(
            [hits for tally in found for hits in tally.hits_per_prompt],
            plan.verify.sampling.images_per_prompt,
            erasure.min_base_rate,
            confidence=erasure.confidence,
            concept=concept,
            policy_line=erasure.line,
            num_failures=sum(tally.num_failures for tally in found),
            gating=gating,
        )

    each = erasure.over == "each"
    own = [row(name, [tally], each) for name, tally in base.items()]
    if each:
        return own
    return [row("all", [*base.values()], True), *(own if len(own) > 1 else ())]


def _hits(tallies: Tallies, subject: str, check: str) -> checks.ConceptHits:
    base, safe = tallies[(BASE, check)], tallies[(subject, check)]
    return checks.ConceptHits(
        hits_per_prompt=safe.hits_per_prompt,
        base_hits_per_prompt=base.hits_per_prompt,
        images_per_prompt=safe.hits.shape[1],
        num_failures=safe.num_failures,
    )


def _pair(tallies: Tallies, subject: str, check: str) -> tuple[Bools, Bools, int]:
    """Base right, subject right, and how many pictures of the two failed."""
    base, safe = tallies[(BASE, check)], tallies[(subject, check)]
    return base.hits, safe.hits, base.num_failures + safe.num_failures


def _kept_once(plan: Plan, tallies: Tallies, subject: str) -> tuple[Bools, Bools]:
    """Base right, subject right; a prompt that groups share counts once, right if right in all."""
    base: dict[str, Bools] = {}
    safe: dict[str, Bools] = {}
    for check in plan.verify.retention:
        for who, right in ((BASE, base), (subject, safe)):
            tally = tallies[(who, f"retention/{check.name}")]
            for prompt, hits in zip(tally.prompts, tally.hits, strict=True):
                right[prompt] = right.get(prompt, hits) & hits
    shape = (len(base), plan.verify.sampling.images_per_prompt)
    found = [np.array([right[p] for p in base], np.bool_).reshape(shape) for right in (base, safe)]
    return found[0], found[1]
