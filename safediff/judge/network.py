"""The embedded judge's network: a small residual image encoder and a bag-of-tokens text encoder.

Both map into one space of 128 dimensions (as in CLIP, arXiv:2103.00020); two linear heads name
the object (or none of them) and the style.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURE_WIDTH = 192
EMBEDDING_WIDTH = 128


class Vision(NamedTuple):
    """What the image encoder makes of a batch."""

    maps: tuple[Tensor, ...]
    """Activations after each stage, for the perceptual distance."""
    features: Tensor
    """Pooled features (n, 192), for FID and KID."""
    embedding: Tensor
    """Unit vectors (n, 128) in the space shared with texts."""
    object_logits: Tensor
    """(n, num_names + 1); the last column is "none of these"."""
    style_logits: Tensor
    """(n, num_styles)."""


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; halves the resolution when ``stride`` is 2."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width_in, h, w) -> (n, width, h / stride, w / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class JudgeNetwork(nn.Module):
    """Image and text encoder of the embedded judge (about 1.3 M parameters)."""

    def __init__(self, num_names: int, num_styles: int, vocabulary_size: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        widths = (32, 64, 128, FEATURE_WIDTH)
        self.stages = nn.ModuleList(
            Block(widths[max(i - 1, 0)], width, 2 if i else 1) for i, width in enumerate(widths)
        )
        self.to_embedding = nn.Linear(FEATURE_WIDTH, EMBEDDING_WIDTH)
        self.to_object = nn.Linear(FEATURE_WIDTH, num_names + 1)
        self.to_style = nn.Linear(FEATURE_WIDTH, num_styles)
        self.tokens = nn.EmbeddingBag(vocabulary_size, EMBEDDING_WIDTH, mode="mean")
        self.text = nn.Sequential(
            nn.Linear(EMBEDDING_WIDTH, 256), nn.ReLU(), nn.Linear(256, EMBEDDING_WIDTH)
        )
        self.log_temperature = nn.Parameter(torch.tensor(2.5))

    def see(self, images: Tensor) -> Vision:
        """Images (n, 3, 64, 64) in [-1, 1]."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        features = x.mean((2, 3))
        return Vision(
            tuple(maps),
            features,
            F.normalize(self.to_embedding(features), dim=-1),
            self.to_object(features),
            self.to_style(features),
        )

    def read(self, texts: list[list[int]]) -> Tensor:
        """Unit vectors (n, 128) of token id lists (content tokens only)."""
        flat = torch.tensor([token for text in texts for token in text], dtype=torch.long)
        lengths = torch.tensor([0, *(len(text) for text in texts[:-1])])
        bag = self.tokens(flat, lengths.cumsum(0))
        return F.normalize(bag + self.text(bag), dim=-1)
