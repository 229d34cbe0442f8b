"""Strong augmentation for the judge, on batches of pictures in [-1, 1] on a white ground."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move, mirror, recolour, blur and add noise; shape (n, 3, 64, 64) is kept."""
    out = _move(images, generator)
    out = _recolour(out, generator)
    out = _blur(out, generator)
    noise = torch.randn(out.shape, generator=generator)
    return (out + noise * _column(_uniform(0, 0.12, len(out), generator))).clamp(-1, 1)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Scale 0.75 to 1.2, turn up to 15 degrees, shift up to 8 pixels, mirror half of them."""
    n = len(images)
    zoom = 1 / _uniform(0.75, 1.2, n, generator)
    angle = _uniform(-math.pi / 12, math.pi / 12, n, generator)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = zoom * angle.cos() * mirror, -zoom * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = zoom * angle.sin() * mirror, zoom * angle.cos()
    theta[:, :, 2] = (torch.rand(n, 2, generator=generator) - 0.5) * 0.5
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - 1, grid, align_corners=False) + 1


def _recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    n = len(images)
    gain = torch.rand(n, 3, 1, 1, generator=generator) * 0.3 + 0.85
    contrast = _column(_uniform(0.75, 1.2, n, generator))
    shift = _column(_uniform(-0.15, 0.15, n, generator))
    grey = _column(_uniform(0, 0.5, n, generator))
    out = images * (1 - grey) + images.mean(1, keepdim=True) * grey
    return ((out + 1) * gain - 1) * contrast + shift


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """A binomial blur, mixed in by a random share from none to all."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    weight = (kernel[:, None] * kernel[None, :]).expand(3, 1, 5, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(padded, weight, groups=3)
    share = _column(_uniform(-0.5, 1.0, len(images), generator).clamp(min=0))
    return images * (1 - share) + blurred * share
