"""Texts, backbones and an independent least-squares solver for tests of the closed-form erasers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from erase_examples import CONCEPTS, KEEP, frozen_backbone
from tiny import tiny_unet
from torch import Tensor

from safediff.models.backbone import Backbone, Condition
from safediff.models.patch import Patch
from safediff.models.stable_diffusion import StableDiffusion

ERASED = ("axe", "bomb", "pistol")
"""The erase texts of ``CONCEPTS``; the tiny tokenizer makes a token of every letter."""

PHRASED = tuple(text for concept in CONCEPTS for text in concept.phrasings)
"""What presets of ours erase in place of the erase texts."""

__all__ = ["CONCEPTS", "ERASED", "KEEP", "frozen_backbone"]

Term = tuple[float, Tensor, Tensor]
"""Weight, rows (n, d), targets (n, out)."""


@dataclass(frozen=True, kw_only=True)
class TwoEncoders(StableDiffusion):
    """A backbone whose text states are twice as wide, as those of SDXL are."""

    def encode(self, texts: Sequence[str]) -> Condition:
        hidden = super().encode(texts).hidden
        return Condition(torch.cat([hidden, hidden.flip(-1)], dim=-1))


def xl_backbone(folder: Path) -> Backbone:
    narrow = frozen_backbone(folder)
    return TwoEncoders(
        name="tiny-xl",
        denoiser=tiny_unet(xl=True).requires_grad_(False),
        text_encoder=narrow.text_encoder,
        tokenizer=narrow.tokenizer,
        vae=narrow.vae,
        scheduler=narrow.scheduler,
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def solve(*terms: Term) -> Tensor:
    """W (out, d) that minimises the sum of weight |rows W^T - targets|^2, by stacked regression."""
    rows = np.concatenate([weight**0.5 * x.numpy() for weight, x, _ in terms])
    targets = np.concatenate([weight**0.5 * y.numpy() for weight, _, y in terms])
    solution, _, rank, _ = np.linalg.lstsq(rows, targets)
    assert rank == rows.shape[1]
    return torch.from_numpy(solution.T)


def positions(text: str, tokens: str) -> list[int]:
    """Which positions of ``text`` a mode reads, from the count of its letters."""
    length = len(text.replace(" ", ""))
    return {
        "last": [length],
        "content": list(range(1, length + 1)),
        "after_start": list(range(1, 77)),
        "all": list(range(77)),
    }[tokens]


def rows_of(backbone: Backbone, texts: Sequence[str], tokens: str) -> Tensor:
    """The chosen tokens of the texts, (num, d) in float64."""
    hidden = backbone.encode(texts).hidden.double()
    return torch.cat([h[positions(t, tokens)] for h, t in zip(hidden, texts, strict=True)])


def guides_of(backbone: Backbone, texts: Sequence[str], guide: str, tokens: str) -> Tensor:
    """The guide's tokens that stand for those of ``rows_of``, (num, d)."""
    hidden = backbone.encode([guide]).hidden.double()[0]
    own = [positions(guide if tokens == "last" else text, tokens) for text in texts]
    return torch.cat([hidden[index] for index in own])


def stored(backbone: Backbone) -> dict[str, Tensor]:
    """Keys and values of cross-attention in float64, picked by a rule of the tests' own."""
    return {
        name: value.double()
        for name, value in backbone.denoiser.state_dict().items()
        if "attn2.to_k" in name or "attn2.to_v" in name
    }


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found.double() - expected).norm() / expected.norm())


def worst(patch: Patch, expected: Mapping[str, Tensor]) -> float:
    """The largest relative distance over all matrices, which must be the same ones."""
    assert patch.tensors.keys() == expected.keys()
    return max(distance(patch.tensors[name], expected[name]) for name in expected)
