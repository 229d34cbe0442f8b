"""Trajectories of the tiny model, with and without guards, step by step."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from safediff.guard.base import Guard
from safediff.guard.params import PRESETS
from safediff.models.backbone import Backbone
from safediff.sample.sampler import Draw, Sampling, denoise_all, initial_latents

DRAWS = (Draw("axe"), Draw("a hammer"), Draw("axe", 1))
TEXTS = ("sword", "kitchen knife")
SAMPLING = Sampling(num_steps=20, guidance_scale=7.5, seed=3)
"""More steps than the longest warm-up, 15."""
SLD = tuple(name for name in PRESETS if name.startswith("sld"))
SEGA = tuple(name for name in PRESETS if name.startswith("sega"))
ONE_OF_EACH = ("neg", "sld-strong", "sega-strong")
TOLERANCE = 1e-4


class Recorder:
    """A scheduler that notes the latents after each step; so do copies of it."""

    def __init__(self, scheduler: Any, latents: list[Tensor]) -> None:
        self.scheduler, self.latents = scheduler, latents

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recorder":
        return Recorder(copy.deepcopy(self.scheduler, memo), self.latents)

    def step(self, *args: Any, **options: Any) -> Any:
        done = self.scheduler.step(*args, **options)
        self.latents.append(done[0])
        return done


@torch.no_grad()
def trajectory(backbone: Backbone, guard: Guard | None, draws: Sequence[Draw] = DRAWS) -> Tensor:
    """Latents after each step (steps, n, c, h, w)."""
    latents: list[Tensor] = []
    recorded = replace(backbone, scheduler=Recorder(backbone.scheduler, latents))
    c_0 = backbone.encode([""]).repeat(len(draws))
    c = backbone.encode([draw.prompt for draw in draws])
    final = denoise_all(recorded, draws, c_0, c, SAMPLING, guard)
    assert torch.equal(final, latents[-1])
    return torch.stack(latents)


def predictions(guard: Guard, num_rows: int) -> Tensor:
    """Random ones for every step (steps, branches, rows, 4, 8, 8), as far apart as a UNet's."""
    generator = torch.Generator().manual_seed(0)
    shape = (SAMPLING.num_steps, guard.num_branches, num_rows, 4, 8, 8)
    common = torch.randn(shape[0], 1, *shape[2:], generator=generator)
    return common + 0.05 * torch.randn(shape, generator=generator)


def guide(backbone: Backbone, guard: Guard, given: Tensor) -> Tensor:
    """What the guard makes of ``predictions``, one step after another (steps, rows, 4, 8, 8)."""
    c_0 = backbone.encode([""]).repeat(given.shape[2])
    guidance = guard.start(backbone, c_0, c_0, SAMPLING.guidance_scale)
    return torch.stack([guidance(i, e.flatten(0, 1)) for i, e in enumerate(given)])


def diffusers_trajectory(pipeline: Any, **options: Any) -> Tensor:
    """The same with a pipeline of diffusers that has a ``callback``."""
    latents: list[Tensor] = []

    def note(step: int, t: int, z: Tensor) -> None:
        latents.append(z.clone())

    run_pipeline(pipeline, callback=note, callback_steps=1, **options)
    return torch.stack(latents)


def run_pipeline(pipeline: Callable[..., Any], **options: Any) -> None:
    """Draw ``DRAWS`` with it."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        [draw.prompt for draw in DRAWS],
        latents=initial_latents(DRAWS, (4, 8, 8), SAMPLING.seed),
        num_inference_steps=SAMPLING.num_steps,
        guidance_scale=SAMPLING.guidance_scale,
        output_type="pt",
        **options,
    )


def distance(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape
    return float((a - b).abs().max())
