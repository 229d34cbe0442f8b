"""What a plan will cost in UNet passes (one sample through the UNet once), without loading it."""

from dataclasses import dataclass

from safediff.erase.params import SddParams, resolve
from safediff.policy.plan import Plan


@dataclass(frozen=True)
class Cost:
    """Numbers of passes and pictures; a forward and backward counts as three passes."""

    erase_passes: int
    verify_passes: int
    num_images: int


def estimate_cost(plan: Plan) -> Cost:
    """Expected passes of erasing, and of drawing every picture of every check."""
    params = resolve(plan.erase.preset, plan.erase.options)
    per_image = 2 * plan.verify.sampling.num_steps
    return Cost(
        erase_passes=sdd_passes(params),
        verify_passes=plan.num_images * per_image,
        num_images=plan.num_images,
    )


def sdd_passes(params: SddParams) -> int:
    """Expected passes of SDD: rollouts (both guidance branches) and losses.

    A rollout ends at the largest of ``reuse`` distinct u in {0 .. N-1}, whose mean for uniform u
    is K (N + 1) / (K + 1) - 1.
    """
    n, k = params.num_inference_steps, params.reuse
    mean_steps = k * (n + 1) / (k + 1) - 1 if params.timesteps == "uniform" else n / 2
    rollouts = -(-params.num_steps // k)
    per_loss = 4 + (4 * (1 - params.keep_share) if params.anchor_weight else 0)
    rolling = rollouts * 2 * mean_steps * params.batch_size
    return round(rolling + params.num_steps * params.batch_size * per_loss)
