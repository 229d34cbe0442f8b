"""Augmentation for the judge."""

import torch
from torch import Tensor

from safediff.build.augment import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(count: int = 1) -> Tensor:
    """A dark square left of the middle, on white."""
    images = torch.ones(count, 3, 64, 64)
    images[:, :, 24:40, 12:28] = -1
    return images


def test_shape_range_and_seed() -> None:
    images = blob(8)
    found = augment(images, generator())
    assert found.shape == images.shape
    assert found.min() >= -1
    assert found.max() <= 1
    assert torch.equal(augment(images, generator()), found)
    assert not torch.equal(augment(images, generator(1)), found)
    assert torch.equal(images, blob(8))


def test_copies_of_a_picture_differ() -> None:
    found = augment(blob(6), generator())
    for a in range(6):
        for b in range(a):
            assert (found[a] - found[b]).abs().mean() > 0.02


def test_ground_stays_light_and_figure_dark() -> None:
    found = augment(blob(200), generator())
    corner = found[:, :, :4, :4].mean((1, 2, 3))
    assert corner.min() > 0.2
    assert found.mean(1).flatten(1).min(1).values.max() < -0.1


def test_half_are_mirrored() -> None:
    dark = (1 - augment(blob(400), generator())).clamp(min=0.8).sub(0.8).mean(1)
    left = dark[:, :, :32].sum((1, 2)) > dark[:, :, 32:].sum((1, 2))
    assert 0.4 < left.float().mean() < 0.6
