"""Some steps of trajectories; whoever takes them may let another model go on."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from safediff.guard.base import Guidance
from safediff.models.backbone import Backbone


def run_steps(
    backbone: Backbone,
    guidance: Guidance,
    scheduler: Any,
    timesteps: Tensor,
    z: Tensor,
    after: Callable[[int, Tensor], Tensor] = lambda step, z: z,
) -> Tensor:
    """Latents after the given steps of a scheduler whose timesteps are set.

    Args:
        backbone: Denoises.
        guidance: Started for as many rows as ``z`` has; counts steps from this part's first.
        scheduler: Keeps state from part to part.
        timesteps: Those of this part, in order, (steps,); best on the CPU (``both_places``).
        z: Latents (n, c, h, w) before the first of them.
        after: What becomes of the latents after each step.
    """
    for step, (t, t_there) in enumerate(both_places(timesteps, z)):
        stacked = guidance.stacked(backbone, scheduler.scale_model_input(z, t), t_there)
        eps = guidance(step, stacked)
        z = after(step, scheduler.step(eps, t, z, return_dict=False)[0])
    return z


def place_of_step(u: int, num_inference_steps: int, scheduler: Any) -> int:
    """Where the state after u whole steps lies in ``scheduler.timesteps``.

    Some solvers take more than one evaluation for a step: those of second order two, PLMS two for
    its first alone. Between them the latents are a trial's, not the trajectory's.
    """
    steps_to_go = num_inference_steps - 1 - u
    return len(scheduler.timesteps) - 1 - scheduler.order * steps_to_go if u else 0


def both_places(timesteps: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each timestep as it is, for the scheduler, and beside the latents, for the network.

    Schedulers look their tables up on the CPU: a timestep on a GPU would make every step wait for
    all that was asked of it before.
    """
    return zip(timesteps, timesteps.to(z.device), strict=True)
