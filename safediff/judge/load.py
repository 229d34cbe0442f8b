"""Makes judges by the name that a policy gives: our own and those of other packages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from safediff.errors import Inconclusive
from safediff.judge.base import Judge, MakeJudge
from safediff.judge.registry import JUDGES
from safediff.policy.plan import Plan

_MEMBERS = ("name", "labels", "threshold", "weights_sha256", "score", "calibration")
"""What a judge cannot do without; features and the like are asked for by quality metrics only."""


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """A judge with what a plan wants of it."""

    name: str
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None


def judge_requests(plan: Plan) -> list[JudgeRequest]:
    """Every judge of a plan, by name."""
    labels: dict[str, dict[str, None]] = {}
    for concept in plan.concepts:
        labels.setdefault(concept.judge, {}).update(dict.fromkeys(concept.labels))
    for group in plan.verify.retention:
        for prompt in group.prompts:
            labels.setdefault(group.judge, {}).update(dict.fromkeys(prompt.labels))
    settings = {judge.name: judge.settings for judge in plan.judges}
    return [
        JudgeRequest(name=name, labels=tuple(asked), settings=settings.get(name, {}))
        for name, asked in sorted(labels.items())
    ]


def load_judges(requests: Sequence[JudgeRequest]) -> dict[str, Judge]:
    """One judge per request, by name.

    Raises:
        UsageError: there is no judge of that name.
        Inconclusive: a judge's package or weights are missing, or it is no judge.
    """
    return {request.name: _load(request) for request in requests}


def _load(request: JudgeRequest) -> Judge:
    make = cast(MakeJudge, JUDGES.load(request.name))
    if not callable(make):
        raise Inconclusive(f"judge {request.name!r} is not a function that makes a judge")
    judge = make(request.labels, request.settings or {})
    missing = [member for member in _MEMBERS if not hasattr(judge, member)]
    if missing:
        raise Inconclusive(f"judge {request.name!r} is no judge: it has no {missing[0]}")
    unknown = [label for label in request.labels if label not in judge.labels]
    if unknown:
        raise Inconclusive(
            f"judge {request.name!r} does not know the label {unknown[0]!r}",
            f"it knows {', '.join(judge.labels[:8])}",
        )
    return judge


def prove_judges(plan: Plan) -> dict[str, Judge]:
    """Load the judges once, before anything that takes long.

    Raises:
        Inconclusive: one is missing, or does not say how well it sees what the plan erases.
    """
    judges = load_judges(judge_requests(plan))
    for concept in plan.concepts:
        judges[concept.judge].calibration(concept.labels)
    return judges


def prove_sight(judges: Mapping[str, Judge], size: tuple[int, int]) -> None:
    """Show every judge an empty picture of this height and width.

    Raises:
        UsageError: a judge reads pictures of another size.
        Inconclusive: it cannot read one.
    """
    for judge in judges.values():
        judge.score(torch.zeros(1, 3, *size, dtype=torch.uint8))
