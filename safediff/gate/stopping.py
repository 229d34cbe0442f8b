"""Where the checks of a subject stop under the sequential rule, from the journal's tallies.

The rule is fixed before the first picture and stands in the journal's header: the stakes, and for
every check its prompts in the order in which they count. Each check is looked at after every prompt
of its own order, however the pictures were batched, and whoever holds the journal finds the same
stops again.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from safediff.errors import UsageError
from safediff.gate.accuracy import PlanAccuracy
from safediff.gate.recount import Tally
from safediff.gate.sequential import (
    Floats,
    Reason,
    Stop,
    anytime_rate,
    anytime_ratio,
    returns,
    settle,
)
from safediff.gate.stakes import DISPROVING, PROVING
from safediff.gate.stats import observable_limits
from safediff.policy.plan import ErasureCheck, Plan, RetentionCheck

Json = dict[str, Any]
Key = tuple[str, str]
"""The check that the journal files a prompt under, and the prompt."""
Outcomes = Mapping[Key, tuple[float, int]]
"""Of one subject: share of hits and number of failures among the pictures of each prompt."""
Tallies = Mapping[tuple[str, str], Tally]
Order = Mapping[str, Sequence[Key]]
"""Prompts by id of the deciding check, which is not the one that they are filed under where one
bound covers all concepts: ``erasure/all`` and ``erasure/axe``."""

BASE = "base"
"""The subject that ratios refer to."""


def stopping_rule(order: Order) -> Json:
    """What the journal's header holds, in plain lists."""
    stakes = {"proving": PROVING, "disproving": DISPROVING}
    return {
        "rule": "sequential",
        "stakes": {name: [list(part) for part in both] for name, both in stakes.items()},
        "order": {check: [list(key) for key in keys] for check, keys in order.items()},
    }


def read_order(rule: Json) -> Order:
    """The order in a header's rule.

    Raises:
        UsageError: it was drawn by other stakes than this version's.
    """
    order = {
        check: [(filed, prompt) for filed, prompt in keys] for check, keys in rule["order"].items()
    }
    if rule != stopping_rule(order):
        raise UsageError(
            "journal was drawn under another stopping rule than this version's",
            next_step="recount it with the version of safediff that wrote it",
        )
    return order


def find_stops(
    plan: Plan,
    order: Order,
    tallies: Tallies,
    subject: str,
    accuracy: PlanAccuracy,
    asked: Mapping[str, int] | None = None,
) -> dict[str, Stop | None]:
    """Where every check of the order stopped; None where it needs more pictures.

    Args:
        plan: limits and confidences.
        order: of the journal's header.
        tallies: of the base, whose kept prompts must all be there, and of the subject.
        subject: whose checks.
        accuracy: of the judges, from the base's pictures alone; it shifts the limits of erasure
            once, before anything of the subject is looked at.
        asked: how many prompts of each check may be looked at; default: all that were drawn.
    """
    base, safe = _outcomes(tallies, BASE), _outcomes(tallies, subject)
    erasure = plan.verify.erasure
    retention = {f"retention/{check.name}": check for check in plan.verify.retention}
    per_prompt = plan.verify.sampling.images_per_prompt
    stops = {}
    for name, keys in order.items():
        num_asked = len(keys) if asked is None else asked[name]
        if name in retention:
            stop = _retention(retention[name], keys, num_asked, base, safe)
        else:
            concept = name.partition("/")[2]
            judge = accuracy.pooled if erasure.over == "all" else accuracy.by_concept[concept]
            limits = observable_limits(erasure.max_rate, judge)
            stop = _erasure(erasure, keys, num_asked, limits, safe)
        if stop and stop.estimate:
            pictures = stop.num_prompts * per_prompt
            stop = stop._replace(estimate=stop.estimate._replace(num_samples=pictures))
        stops[name] = stop
    return stops


def _outcomes(tallies: Tallies, subject: str) -> Outcomes:
    return {
        (check, prompt): (float(share), failures)
        for (who, check), tally in tallies.items()
        if who == subject
        for prompt, share, failures in zip(
            tally.prompts, tally.hits.mean(axis=1), tally.failures_per_prompt, strict=True
        )
    }


def _erasure(
    check: ErasureCheck,
    keys: Sequence[Key],
    num_asked: int,
    limits: tuple[float, float] | None,
    safe: Outcomes,
) -> Stop | None:
    num_drawn, (shares,) = _shares(keys[:num_asked], safe)
    if limits is None:
        return Stop(1, len(keys), "undecidable", None) if num_drawn else None
    keep, exceed = limits
    flawless = np.full(len(keys), 1 / (1 - keep) - 1)
    found = _settle(
        num_drawn,
        returns(1 - shares, 1.0, 1 - keep),
        returns(shares, 1.0, exceed),
        flawless,
        flawless,
        check.confidence,
        earliest=_first_round(keys),
    )
    if found is None:
        return None
    num_prompts, reason = found
    decided = reason != "undecidable"
    estimate = anytime_rate(shares[:num_prompts], check.confidence) if decided else None
    return Stop(num_prompts, len(keys), reason, estimate)


def _first_round(keys: Sequence[Key]) -> int:
    """Number of prompts that it takes to see every concept: nothing is claimed of unseen ones."""
    first: dict[str, int] = {}
    for number, (filed, _) in enumerate(keys, start=1):
        first.setdefault(filed, number)
    return max(first.values())


def _retention(
    check: RetentionCheck, keys: Sequence[Key], num_asked: int, base: Outcomes, safe: Outcomes
) -> Stop | None:
    num_drawn, (b, s) = _shares(keys[:num_asked], base, safe)
    base_right = np.array([base.get(key, (0.0, 0))[0] for key in keys])
    found = _settle(
        num_drawn,
        returns(s, b, check.min_ratio),
        returns(b, s, 1 / check.min_ratio),
        returns(base_right, base_right, check.min_ratio),
        returns(np.ones(len(keys)), base_right, check.min_ratio),
        check.confidence,
    )
    if found is None:
        return None
    num_prompts, reason = found
    b, s = b[:num_prompts], s[:num_prompts]
    decided = reason != "undecidable" and b.any()
    estimate = anytime_ratio(b, s, check.confidence) if decided else None
    return Stop(num_prompts, len(keys), reason, estimate)


def _shares(keys: Sequence[Key], *subjects: Outcomes) -> tuple[int, list[Floats]]:
    """How many leading prompts every subject drew; shares of those up to the first failure."""
    drawn = list(takewhile(lambda key: all(key in found for found in subjects), keys))
    sound = list(takewhile(lambda key: not any(found[key][1] for found in subjects), drawn))
    return len(drawn), [np.array([found[key][0] for key in sound]) for found in subjects]


def _settle(
    num_drawn: int,
    proving: Floats,
    disproving: Floats,
    flawless: Floats,
    best: Floats,
    confidence: float,
    earliest: int = 1,
) -> tuple[int, Reason] | None:
    """As ``settle``; a prompt with a failed picture ends the check, since none may be left out."""
    found = None
    if proving.size:
        found = settle(proving, disproving, flawless, best, confidence, earliest)
    if found is None and num_drawn > proving.size:
        return proving.size + 1, "undecidable"
    return found


def tallies_at(
    stops: Mapping[str, Stop], order: Order, tallies: Tallies, subject: str, per_prompt: int
) -> dict[Key, Tally]:
    """Tallies of the base and a subject, each check's up to its stop and in its drawing order."""
    nothing = Tally(
        prompts=(), hits=np.zeros((0, per_prompt), dtype=np.bool_), failures_per_prompt=()
    )
    found = {}
    for name, keys in order.items():
        counted = keys[: stops[name].num_prompts]
        for filed in dict.fromkeys(filed for filed, _ in keys):
            prompts = [prompt for check, prompt in counted if check == filed]
            for who in (BASE, subject):
                found[who, filed] = tallies.get((who, filed), nothing).only(prompts)
    return found
