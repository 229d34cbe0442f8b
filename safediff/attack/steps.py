"""How a part of a trajectory starts."""

from safediff.guard.base import Guard, Guidance
from safediff.guard.base import start_guidance as guidance_of
from safediff.models.backbone import Backbone
from safediff.sample.sampler import Sampling


def start_guidance(
    backbone: Backbone, prompts: list[str], sampling: Sampling, guard: Guard | None = None
) -> Guidance:
    """Guidance for the prompts, one row each, by the guard or without one."""
    c = backbone.encode(prompts)
    c_0 = backbone.null().repeat(len(prompts))
    return guidance_of(guard, backbone, c_0, c, sampling.guidance_scale)
