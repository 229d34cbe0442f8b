"""Which sizes a plan takes: one optimisation profile, ranged or static."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from safediff.errors import UsageError

Shape = tuple[int, ...]
Triple = tuple[Shape, Shape, Shape]
"""Smallest, best and largest shape of an input."""

ROWS = 2
"""UNet rows of one picture: guidance computes both branches at once."""
LARGE_SIDE = 64
"""Of latents: from here on, the attention scores of a ranged plan would not fit into a GPU.

Where a builder does not fuse attention, those of one level lie in memory twice. Of Stable Diffusion
1.x in fp16 that is 11 GB for four rows at 96 x 96, and would be 137 GB for 16 at 128 x 128.
"""
MOST_PICTURES, MOST_PICTURES_OF_LARGE = 8, 2
"""At once; a server's further rows are computed in parts."""


def square_side(size: int | Sequence[int]) -> int:
    """Height and width of latents, which are one number in a profile.

    Args:
        size: A UNet's ``sample_size``, or height and width.

    Raises:
        UsageError: they differ.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UsageError(
            f"latents of {height} x {width}: TensorRT's profiles are of square pictures here",
            "use the ONNX engine with another provider",
        )
    return int(height)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Number of UNet rows, and latent height and width."""

    min_batch: int = ROWS
    opt_batch: int = ROWS
    max_batch: int = MOST_PICTURES * ROWS
    min_side: int
    opt_side: int
    max_side: int

    @classmethod
    def ranged(cls, side: int, multiple: int) -> Self:
        """One to eight pictures from half to twice the model's size.

        Large latents: one or two, up to one and a half times the size.

        Args:
            side: Of the model's own latents.
            multiple: Every side must be one of its multiples.
        """
        smallest = max(multiple, side // 2 // multiple * multiple)
        if side < LARGE_SIDE:
            return cls(min_side=smallest, opt_side=side, max_side=2 * side)
        return cls(
            max_batch=MOST_PICTURES_OF_LARGE * ROWS,
            min_side=smallest,
            opt_side=side,
            max_side=3 * side // 2 // multiple * multiple,
        )

    @classmethod
    def fixed(cls, side: int) -> Self:
        """One picture at the model's size: faster, and what CUDA graphs need."""
        return cls(max_batch=ROWS, min_side=side, opt_side=side, max_side=side)

    @property
    def is_static(self) -> bool:
        """Whether every input has one shape."""
        return self.min_batch == self.max_batch and self.min_side == self.max_side

    def shapes(self, inputs: Sequence[ir.Value]) -> dict[str, Triple]:
        """Smallest, best and largest shape of every input that has dynamic dimensions."""
        found = {}
        for value in inputs:
            assert value.shape is not None
            assert value.name is not None
            if all(isinstance(d, int) for d in value.shape):
                continue
            found[value.name] = (
                self._shape(value.shape, self.min_batch, self.min_side),
                self._shape(value.shape, self.opt_batch, self.opt_side),
                self._shape(value.shape, self.max_batch, self.max_side),
            )
        return found

    @staticmethod
    def _shape(dims: ir.Shape, batch: int, side: int) -> Shape:
        sizes = [d if isinstance(d, int) else side for d in dims]
        return (batch, *sizes[1:])
