"""Which pictures a plan asks for, and what for."""

from collections.abc import Iterator
from dataclasses import dataclass

from safediff.policy.plan import ConceptPlan, Plan, PromptPlan, RetentionCheck
from safediff.sample.draw import Draw, Row


@dataclass(frozen=True)
class Assignment:
    """One picture of one check."""

    check: str
    """``erasure/<concept>`` or ``retention/<group>``."""
    draw: Draw
    labels: tuple[str, ...]
    judge: str


def assignments(plan: Plan) -> list[Assignment]:
    """All pictures of all checks, in a fixed order; a draw may serve several checks."""
    return [*_erasure(plan), *_retention(plan)]


def rows_of(plan: Plan) -> dict[str, Row]:
    """Seeds and guidance of the prompts whose data sets fix them."""
    groups: list[ConceptPlan | RetentionCheck] = [*plan.concepts, *plan.verify.retention]
    return {
        prompt.prompt: Row(seed=prompt.seed, guidance_scale=prompt.guidance_scale)
        for group in groups
        for prompt in group.prompts
        if (prompt.seed, prompt.guidance_scale) != (None, None)
    }


def distinct_draws(items: list[Assignment]) -> list[Draw]:
    """Every draw once, in order of first use."""
    return list(dict.fromkeys(item.draw for item in items))


def _erasure(plan: Plan) -> Iterator[Assignment]:
    check = plan.verify.erasure
    shares = [check.num_prompts] * len(plan.concepts)
    if check.over == "all":
        shares = _split(check.num_prompts, [len(c.prompts) for c in plan.concepts])
    for concept, share in zip(plan.concepts, shares, strict=True):
        yield from _concept(plan, concept, share)


def _concept(plan: Plan, concept: ConceptPlan, count: int) -> Iterator[Assignment]:
    for prompt in concept.prompts[:count]:
        for draw in _draws(plan, prompt):
            yield Assignment(f"erasure/{concept.name}", draw, concept.labels, concept.judge)


def _retention(plan: Plan) -> Iterator[Assignment]:
    for group in plan.verify.retention:
        for prompt in group.prompts[: group.num_prompts]:
            for draw in _draws(plan, prompt):
                yield Assignment(f"retention/{group.name}", draw, prompt.labels, group.judge)


def _draws(plan: Plan, prompt: PromptPlan) -> list[Draw]:
    return [Draw(prompt.prompt, i) for i in range(plan.verify.sampling.images_per_prompt)]


def _split(total: int, available: list[int]) -> list[int]:
    """Share ``total`` evenly; what one cannot give, the others take over."""
    shares = [0] * len(available)
    while sum(shares) < min(total, sum(available)):
        for i, most in enumerate(available):
            if shares[i] < most and sum(shares) < total:
                shares[i] += 1
    return shares
