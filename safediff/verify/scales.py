"""Whether a base can be asked all that a plan asks, found out before it is drawn."""

import torch

from safediff.errors import UsageError
from safediff.guard.base import Guard, start_guidance
from safediff.models.backbone import Backbone
from safediff.models.prediction import levels
from safediff.policy.plan import Plan
from safediff.verify.assignments import rows_of


def require_scales(plan: Plan, base: Backbone, guard: Guard | None = None) -> None:
    """Begin to draw at every scale of the sampling and of the prompts' tables.

    With a guard at the lowest of them: what it steers is guidance.

    Raises:
        UsageError: the network has no such scale, or the guard nothing to steer.
    """
    given = (row.guidance_scale for row in rows_of(plan).values())
    scales = {plan.verify.sampling.guidance_scale, *(scale for scale in given if scale is not None)}
    null = base.null()
    for scale in sorted(scales):
        start_guidance(None, base, null, null, scale)
    if guard is not None:
        start_guidance(guard, base, null, null, min(scales))


def require_steps(plan: Plan, base: Backbone) -> None:
    """Refuse more steps than the model's scheduler takes.

    Raises:
        UsageError: the sampling asks for more.
    """
    asked, most = plan.verify.sampling.num_steps, base.max_num_steps
    if asked > most:
        scheduler = type(base.scheduler).__name__
        raise UsageError(
            f"verify.sampling.num_steps: {asked}, but the {scheduler} takes at most {most}",
            f"ask for at most {most}, or name another model.scheduler",
        )


def require_levels(plan: Plan, base: Backbone) -> None:
    """Ask for the levels of noise, where drift or attacks need them.

    Raises:
        UsageError: the model's steps do not say them.
    """
    drift = any(check.metric == "null_drift" for check in plan.verify.quality)
    if plan.verify.attacks or drift:
        levels(base.scheduler, torch.tensor(0), torch.zeros(1))
