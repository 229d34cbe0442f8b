"""Draws pictures from seeds: the same prompt and index give the same latents in any batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from safediff.guard.base import Guard, start_guidance
from safediff.models.backbone import Backbone, Condition
from safediff.models.fast import faster
from safediff.policy.plan import num_branches
from safediff.sample.draw import NO_ROWS, Row, Rows
from safediff.sample.draw import Draw as Draw
from safediff.sample.draw import seed_of as seed_of
from safediff.sample.own_noise import use_own_noise
from safediff.sample.steps import run_steps


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn."""

    num_steps: int = 25
    guidance_scale: float = 5.0
    seed: int = 0
    batch_size: int = 32
    rows: Rows = field(default_factory=dict, hash=False)

    def num_rows(self, backbone: Backbone) -> int:
        """Most rows that the denoiser gets at a time, without a guard."""
        branches = num_branches(self.guidance_scale, backbone.distilled_guidance)
        return self.batch_size * branches

    def batches(self, draws: Sequence[Draw]) -> "Iterator[tuple[list[Draw], Sampling]]":
        """The draws in order, as many at a time as fit and share their guidance.

        Each part comes with the sampling that holds for it.
        """
        scales = [self._scale(draw) for draw in draws]
        start = 0
        while start < len(draws):
            end = start + 1
            while end < min(len(draws), start + self.batch_size) and scales[end] == scales[start]:
                end += 1
            yield list(draws[start:end]), replace(self, guidance_scale=scales[start])
            start = end

    def _scale(self, draw: Draw) -> float:
        own = self.rows.get(draw.prompt, Row()).guidance_scale
        return self.guidance_scale if own is None else own


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn picture."""

    draw: Draw
    image: Tensor
    """uint8 (3, H, W)."""
    finite: bool
    """False if the denoiser produced a value that is not finite: the picture shows nothing."""


def initial_latents(
    draws: Sequence[Draw], shape: tuple[int, int, int], seed: int, rows: Rows = NO_ROWS
) -> Tensor:
    """Standard normal latents (n, c, h, w), drawn on the CPU, one generator a picture."""
    return torch.stack(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(draw, seed, rows)))
            for draw in draws
        ]
    )


@torch.no_grad()
def sample(
    backbone: Backbone,
    draws: Sequence[Draw],
    sampling: Sampling,
    on_batch: Callable[[int], None] = lambda count: None,
    guard: Guard | None = None,
) -> Iterator[list[Picture]]:
    """Draw all pictures, batch by batch, in order; ``on_batch`` gets the size of each batch.

    The model's own scheduler is used with the guidance of ``guard``, or without one with
    classifier-free guidance (arXiv:2207.12598), or what was distilled of it.

    Raises:
        UsageError: a prompt or the guard's texts are longer than the text encoder's window.
    """
    null = backbone.null()
    for part, own in sampling.batches(draws):
        distinct = sorted({draw.prompt for draw in part})
        rows = torch.tensor([distinct.index(draw.prompt) for draw in part])
        c = backbone.encode(distinct).rows(rows)
        z = denoise_all(backbone, part, null.repeat(len(part)), c, own, guard)
        images, finite = backbone.decode(z)
        yield [
            Picture(draw=draw, image=image, finite=ok)
            for draw, image, ok in zip(part, images.cpu(), finite.tolist(), strict=True)
        ]
        on_batch(len(part))


def denoise_all(
    backbone: Backbone,
    draws: Sequence[Draw],
    c_0: Condition,
    c: Condition,
    sampling: Sampling,
    guard: Guard | None = None,
    *,
    latents: Tensor | None = None,
) -> Tensor:
    """Final latents (n, c, h, w) of one batch; ``c_0`` and ``c`` have one row a draw.

    ``latents`` are standard normal and take the place of those that the draws would give.
    """
    scale = sampling.guidance_scale
    guidance = start_guidance(guard, backbone, c_0, c, scale)
    scheduler = backbone.new_scheduler()
    scheduler.set_timesteps(sampling.num_steps)
    if latents is None:
        latents = initial_latents(draws, backbone.latent_shape, sampling.seed, sampling.rows)
    use_own_noise(scheduler, latents)
    z: Tensor = latents.to(c.hidden.device, c.hidden.dtype) * scheduler.init_noise_sigma
    with faster(backbone.denoiser) as denoiser:
        model = backbone.with_denoiser(denoiser)
        return run_steps(model, guidance, scheduler, scheduler.timesteps, z)
