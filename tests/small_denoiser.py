"""A denoiser of a few hundred parameters that reads text as a UNet does: a call takes a blink.

For tests that train hundreds of times and ask whether anything changed, not what.
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from erase_examples import frozen_backbone
from tiny import LATENT_CHANNELS, LATENT_SIZE, TEXT_DIM
from torch import Tensor, nn

from safediff.models.backbone import Backbone

WIDTH = 8


class _Attention(nn.Module):
    """softmax(q k^T) v of one head, (b, n, WIDTH) onto (b, m, text)."""

    def __init__(self, text: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(text, WIDTH, bias=False)
        self.to_v = nn.Linear(text, WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        share = (self.to_q(x) @ self.to_k(c).mT).softmax(-1)
        out: Tensor = self.to_out(share @ self.to_v(c))
        return out


class SmallDenoiser(nn.Module):
    """One convolution in, one block of attention, one convolution out; names as in a UNet."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv_in = nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, 2, 1)
            self.time_embedding = nn.Linear(1, WIDTH)
            self.block = nn.ModuleDict({"attn1": _Attention(WIDTH), "attn2": _Attention(TEXT_DIM)})
            self.conv_out = nn.ConvTranspose2d(WIDTH, LATENT_CHANNELS, 4, 2, 1)
        self.config: Any = SimpleNamespace(in_channels=LATENT_CHANNELS, sample_size=LATENT_SIZE)

    def forward(
        self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True
    ) -> Any:
        """As a UNet's."""
        h = self.conv_in(z)  # (b, WIDTH, 4, 4)
        when = torch.as_tensor(t).to(h).reshape(-1, 1) / 1000
        h = (h + self.time_embedding(when)[:, :, None, None]).tanh()
        x = h.flatten(2).mT  # (b, 16, WIDTH)
        x = x + self.block["attn1"](x, x)
        x = x + 3 * self.block["attn2"](x, encoder_hidden_states)
        out = self.conv_out(x.mT.reshape(h.shape))
        return SimpleNamespace(sample=out) if return_dict else (out,)


def small_backbone(folder: Path) -> Backbone:
    """A backbone with this denoiser, which encodes every list of texts once."""
    frozen = frozen_backbone(folder)
    found = frozen.with_denoiser(SmallDenoiser().requires_grad_(False).eval())
    known = cache(found.encode)
    object.__setattr__(found, "encode", lambda texts: known(tuple(texts)))
    return found
