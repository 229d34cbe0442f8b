"""The denoising loss as an adversary uses it: how well does a condition explain given latents?

As in the diffusion classifier (Li et al. 2023, arXiv:2303.16203). Symbols: x latents of a picture
that shows the concept, t timesteps, eps noise, z_t = alpha_t x + sigma_t eps, e the model's answer
and y the right one: eps, or whatever else the model predicts (``safediff.models.prediction``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safediff.erase.micro_batch import loss_scale
from safediff.models.backbone import Backbone, Condition
from safediff.sample.draw import NO_ROWS
from safediff.sample.sampler import Draw, Sampling, denoise_all, seed_of

SEED_OFFSET = 1


def obstacle(backbone: Backbone) -> str | None:
    """Why no derivative of the model's answer can be had; None where it can."""
    if not isinstance(backbone.denoiser, nn.Module):
        return "it needs gradients of the UNet, which a compiled engine does not give"
    return None


@dataclass(frozen=True)
class Points:
    """Noised latents to compare predictions on; one row each."""

    z: Tensor
    """What the denoiser gets, (n, c, h, w)."""
    t: Tensor
    """(n,)."""
    y: Tensor
    """What it should answer, (n, c, h, w)."""


def noised(backbone: Backbone, x: Tensor, t: Tensor, generator: torch.Generator) -> Points:
    """Latents ``x`` (n, c, h, w) at timesteps ``t`` (n,), with noise drawn on the CPU."""
    eps = torch.randn(x.shape, generator=generator).to(x)
    t = t.to(x.device)
    return Points(backbone.noised(x, eps, t), t, backbone.target(x, eps, t))


def spread_timesteps(scheduler: Any, count: int) -> Tensor:
    """The middles of ``count`` equal parts of the training timesteps, (count,)."""
    num_train: int = scheduler.config["num_train_timesteps"]
    return ((torch.arange(count) + 0.5) * num_train / count).long()


def random_timesteps(scheduler: Any, count: int, generator: torch.Generator) -> Tensor:
    """Uniform training timesteps, (count,)."""
    return torch.randint(scheduler.config["num_train_timesteps"], (count,), generator=generator)


def denoising_loss(backbone: Backbone, points: Points, c: Condition) -> Tensor:
    """Mean |y - e(z_t, t, c)|^2; ``c`` has a row for every point."""
    return F.mse_loss(backbone.denoise(points.z, points.t, c).float(), points.y.float())


def differentiate(loss: Tensor, values: Sequence[Tensor], points: Points) -> list[Tensor]:
    """Gradients of a denoising loss, scaled on the way where float16 would lose them."""
    scale = loss_scale(points.z.dtype, points.y.numel())
    found = torch.autograd.grad(loss, list(values), torch.full_like(loss, scale))
    return [gradient / scale for gradient in found]


def elsewhere(sampling: Sampling) -> Sampling:
    """How pictures to train on are drawn: from other seeds than those of any check."""
    return replace(sampling, seed=sampling.seed + SEED_OFFSET, rows=NO_ROWS)


@torch.no_grad()
def base_latents(base: Backbone, draws: list[Draw], sampling: Sampling) -> Tensor:
    """Final latents (n, c, h, w) of the base model's pictures, unguarded, in batches."""
    c_0 = base.null()
    parts = [draws[i : i + sampling.batch_size] for i in range(0, len(draws), sampling.batch_size)]
    return torch.cat(
        [
            denoise_all(
                base, part, c_0.repeat(len(part)), base.encode([d.prompt for d in part]), sampling
            )
            for part in parts
        ]
    )


def generator_of(purpose: str, draw: Draw, seed: int) -> torch.Generator:
    """A generator on the CPU that only this purpose and draw have."""
    return torch.Generator().manual_seed(
        seed_of(Draw(f"{purpose}|{draw.prompt}", draw.index), seed)
    )
