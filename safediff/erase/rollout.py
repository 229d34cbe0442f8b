"""Rollouts: partly denoised latents, drawn with guidance (SDD, steps 2 to 4)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.erase.params import DistilParams, step_weights
from safediff.erase.weights import Cast, PatchedUNet
from safediff.guard.base import start_guidance
from safediff.models.backbone import Backbone, Condition
from safediff.models.fast import faster
from safediff.models.flow import FlowSteps
from safediff.sample.own_noise import use_own_noise
from safediff.sample.shards import ALONE, Shards
from safediff.sample.steps import place_of_step, run_steps


@dataclass(frozen=True)
class State:
    """Latents z_t (b, c, h, w) after u of N steps, with a timestep t (b,) from bin(u)."""

    z: Tensor
    t: Tensor
    u: int
    num_evaluations: int = 0
    """Guided noise predictions that led here."""


def draw_steps(params: DistilParams, generator: torch.Generator) -> list[int]:
    """``reuse`` distinct values of u in {0 .. N-1}, ascending."""
    weights = torch.tensor(step_weights(params))
    return sorted(torch.multinomial(weights, params.reuse, generator=generator).tolist())


def bin_of(u: int, num_inference_steps: int, first: float) -> range:
    """bin(u) = [T - s (u + 1), T - s u), s = T / N, T = 1000: what step u spans of the training.

    Where N does not divide T, most schedules spread N steps over all of T, and bins are rounded.
    "Leading" ones take steps of floor(s), counted from 0, and leave out what is left at the top.

    Args:
        u: Steps before.
        num_inference_steps: N.
        first: Timestep of the first step, by which the two are told apart.
    """
    n, whole = num_inference_steps, 1000 // num_inference_steps
    s = whole if first <= whole * (n - 1) + 1 else 1000 / n
    return range(round(s * (n - 1 - u)), round(s * (n - u)))


def draw_timestep(steps: range, count: int, g: torch.Generator) -> Tensor:
    """T uniform in a bin; shape (count,)."""
    return torch.randint(steps.start, steps.stop, (count,), generator=g)


@torch.no_grad()
def rollout(
    model: Backbone,
    c_0: Condition,
    c_p: Condition,
    steps: list[int],
    params: DistilParams,
    generator: torch.Generator,
    shards: Shards = ALONE,
) -> list[State]:
    """One guided trajectory per row of ``c_p``; the state at each u of ``steps``, in order.

    u = 0 leaves z_T. ``c_0`` has one row for each of ``c_p``. Latents are float32. Of several
    processes, each follows its own rows (``Shards.stripe``), and gets those only; all of them
    draw the random numbers of all rows, so that every row has those that it would have in one
    process.
    """
    num_rows, mine = len(c_p), shards.stripe
    c_0, c_p = c_0.rows(mine), c_p.rows(mine)
    device = c_p.hidden.device
    guidance = start_guidance(None, model, c_0, c_p, params.guidance_scale)
    scheduler = model.rollout_scheduler(params.rollout_scheduler)
    scheduler.set_timesteps(params.num_inference_steps)
    z = torch.randn(num_rows, *model.latent_shape, generator=generator)[mine]
    use_own_noise(scheduler, z)
    z = z.to(device) * scheduler.init_noise_sigma
    states: list[State] = []
    done = 0
    with _in_use(model) as used:
        for u in steps:
            place = place_of_step(u, params.num_inference_steps, scheduler)
            if len(z) and place > done:
                z = run_steps(used, guidance, scheduler, scheduler.timesteps[done:place], z)
            done = place
            now = scheduler.timesteps[place]
            if isinstance(scheduler, FlowSteps):
                t = scheduler.draw_timestep(u, num_rows, generator)[mine]
            else:
                steps_of_u = bin_of(u, params.num_inference_steps, float(scheduler.timesteps[0]))
                t = draw_timestep(steps_of_u, num_rows, generator)[mine]
            if params.loss_timestep == "step":
                t = now.expand(len(z))
            states.append(State(scheduler.scale_model_input(z, now), t.to(device), u, place))
    return states


@contextmanager
def _in_use(model: Backbone) -> Iterator[Backbone]:
    """The model around a faster UNet, which holds the replaced tensors meanwhile."""
    unet = model.denoiser
    with ExitStack() as stack:
        bare = stack.enter_context(unet.in_place()) if isinstance(unet, PatchedUNet) else unet
        used = stack.enter_context(faster(bare))
        if bare is not unet and unet.dtype != torch.float32:  # that of the latents
            used = Cast(used, unet.dtype)
        yield model.with_denoiser(used)
