"""How much is computed to compare an engine with PyTorch.

What is compared are values of predictions, not pictures: two latents of Stable Diffusion at three
timesteps give 98,304 of them, four of the embedded model at five timesteps 10,240. The margin ratio
is a quotient of two norms over all values, so large latents need fewer rows for the same certainty,
but more than one prompt. A hundred UNet rows of that size take two CPU cores many minutes.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from safediff.export.parity import TIMESTEPS, Denoise
from safediff.export.signature import signature_of
from safediff.models.backbone import Backbone, Condition

LARGE = 4096
"""Values of a latent from which fewer rows are enough."""
FEW = 2
"""Rows of a call: one of an erased and one of a kept prompt."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Latents and timesteps of a comparison."""

    num_latents: int
    """Rows of a call, an even number."""
    latent_shape: tuple[int, int, int]
    """Channels, height, width."""
    timesteps: tuple[int, ...]

    @property
    def is_large(self) -> bool:
        """Whether a latent has so many values that few rows are enough."""
        return prod(self.latent_shape) >= LARGE

    def in_rows(self, denoise: Denoise) -> Denoise:
        """The same predictions, of large latents one row after another.

        The attention scores of one at 64 x 64 take half a gigabyte in a graph, and as much again
        after their softmax.
        """
        if not self.is_large:
            return denoise

        def one_by_one(z: Tensor, t: Tensor, c: Condition) -> Tensor:
            rows = (slice(i, i + 1) for i in range(len(z)))
            return torch.cat([denoise(z[row], t, c.rows(row)) for row in rows])

        return one_by_one


def in_full(model: Backbone, num_latents: int) -> Extent:
    """At the model's own size: ``num_latents`` at all timesteps, of large ones fewer at three."""
    shape = model.latent_shape
    if prod(shape) < LARGE:
        return Extent(num_latents=num_latents, latent_shape=shape, timesteps=TIMESTEPS)
    few = min(num_latents, FEW)
    return Extent(num_latents=few, latent_shape=shape, timesteps=TIMESTEPS[::2])


def in_brief(model: Backbone) -> Extent:
    """Two latents at one timestep, for a graph that was compared before; UNets at their smallest.

    Its weights must have been proved: this shows that they are computed with, not much more.
    """
    channels, height, width = model.latent_shape
    if model.component == "unet":
        sides = signature_of(type(model.denoiser).__name__).sides(model.denoiser.config)
        assert sides is not None
        height = width = sides.multiple
    middle = TIMESTEPS[len(TIMESTEPS) // 2]
    return Extent(num_latents=FEW, latent_shape=(channels, height, width), timesteps=(middle,))
