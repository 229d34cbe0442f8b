"""How many rows of a batch an engine computes in one call, so that they fit into memory.

Attention in a graph is a product, a softmax and a product: the scores of all tokens with all tokens
lie in memory for every head of every row, and as much again after the softmax. Of one row of Stable
Diffusion 1.x at 512 pixels in fp16 they take 256 MiB, of SDXL at 1024 pixels 320 MiB. A gate draws
16 pictures at once with two rows each, which would be 8 and 10 GiB, twice.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from safediff.export.providers import Execution
from safediff.export.signature import BATCH, HEIGHT, LATENT_TOKENS, TEXT_TOKENS, WIDTH

LARGEST = 2 * 2**30
"""Bytes of the largest tensor of a call, most often the scores."""


class Runs(Protocol):
    """``session.Session``, and what stands where it would."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """By name, with their shapes."""

    def run(
        self, feeds: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, Tensor]:
        """Compute all rows."""


def unet_scores(config: Any, height: int, width: int) -> int:
    """Attention scores of one row of latents, at the level of a UNet that has most of them."""
    downwards, upwards = config.down_block_types, config.up_block_types[::-1]
    # diffusers' name for the number of heads
    heads = config.get("num_attention_heads") or config.attention_head_dim
    of_level: Sequence[int] = [heads] * len(downwards) if isinstance(heads, int) else heads
    last = len(downwards) - 1  # the middle attends, too
    return max(
        num_heads * (height * width >> 2 * level) ** 2
        for level, num_heads in enumerate(of_level)
        if level == last or "CrossAttn" in downwards[level] + upwards[level]
    )


def transformer_scores(config: Any, sizes: Mapping[str, int]) -> int:
    """Attention scores of one row in a block of a transformer; texts may be among its tokens."""
    if LATENT_TOKENS in sizes:
        tokens = sizes[LATENT_TOKENS]
    else:
        tokens = sizes[HEIGHT] * sizes[WIDTH] // config.patch_size**2
    heads: int = config.num_attention_heads
    return heads * (tokens + sizes.get(TEXT_TOKENS, 0)) ** 2


def decoder_values(channels: Sequence[int], height: int, width: int) -> int:
    """Values of the largest tensor of one picture in a decoder.

    The scores of its middle, which attends with one head, or the features at the picture's size.

    Args:
        channels: ``block_out_channels``; every level but the last doubles the size.
        height: Of the latents.
        width: Of the latents.
    """
    tokens = height * width
    num_pixels = tokens << 2 * (len(channels) - 1)
    return max(tokens**2, max(channels[:2]) * num_pixels)


def rows_at_once(row_bytes: int, execution: Execution) -> int:
    """Rows of which the largest tensor stays within ``LARGEST``; one at least.

    A power of two, since batches mostly are: all parts then have one size, and one CUDA graph.

    Args:
        row_bytes: Of one row in the largest tensor.
        execution: Parts have no fewer rows than its profile allows.
    """
    fitting = max(1, LARGEST // row_bytes)
    least = 1 if execution.profile is None else execution.profile.min_batch
    # one row more than this makes two parts, and neither may be too small
    return max(1 << (fitting.bit_length() - 1), 2 * least - 1)


def run_in_parts(
    session: Runs, feeds: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], at_once: int
) -> dict[str, Tensor]:
    """What ``session.run`` gives, computed with at most ``at_once`` rows.

    Args:
        session: Opened.
        feeds: Every input by name; those whose first dimension is the batch are divided.
        shapes: The wanted outputs and their shapes, rows first.
        at_once: See ``rows_at_once``.
    """
    num_rows = next(iter(shapes.values()))[0]
    if num_rows <= at_once:
        return session.run(feeds, shapes)
    divided = {name for name, value in session.inputs.items() if BATCH in value.shape[:1]}
    found = []
    for rows in _equal_parts(num_rows, -(-num_rows // at_once)):
        part = {name: t[rows] if name in divided else t for name, t in feeds.items()}
        wanted = {name: (rows.stop - rows.start, *shape[1:]) for name, shape in shapes.items()}
        found.append(session.run(part, wanted))
    return {name: torch.cat([part[name] for part in found]) for name in shapes}


def _equal_parts(num_rows: int, num_parts: int) -> list[slice]:
    """Sizes differ by one row at most."""
    ends = [num_rows * part // num_parts for part in range(num_parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]
