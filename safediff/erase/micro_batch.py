"""The gradient of one step: a batch may go through the UNet part by part."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safediff.erase.losses import Losses, distil_losses
from safediff.erase.params import DistilParams
from safediff.erase.rollout import State
from safediff.erase.texts import Batch
from safediff.erase.weights import Student
from safediff.models.backbone import Backbone, Condition


@dataclass(frozen=True)
class Part:
    """Some rows of a batch."""

    state: State
    batch: Batch
    shares: tuple[float, float]
    """Of all rows to erase, and of all kept ones, how many are here."""


def parts(state: State, batch: Batch, max_rows: int) -> Iterator[Part]:
    """The batch in pieces of at most ``max_rows`` rows; 0: in one."""
    count, num_erase = len(state.z), batch.num_erase
    for start in range(0, count, max_rows or count):
        rows = slice(start, min(start + (max_rows or count), count))
        erased = slice(min(rows.start, num_erase), min(rows.stop, num_erase))
        n = erased.stop - erased.start
        piece = Batch(batch.c_p.rows(rows), batch.c_s.rows(rows), batch.c_t.rows(erased), n)
        kept = rows.stop - rows.start - n
        shares = (
            batch.part_of_erase * n / max(num_erase, 1),
            batch.part_of_keep * kept / max(count - num_erase, 1),
        )
        yield Part(replace(state, z=state.z[rows], t=state.t[rows]), piece, shares)


def backward(
    trunk: Backbone,
    student: Student,
    state: State,
    c_0: Condition,
    batch: Batch,
    params: DistilParams,
    propagate: Callable[[Tensor], None],
) -> Losses:
    """Add the gradient of ``distil_losses`` to the student's values; returns its terms.

    ``trunk`` answers as the original; ``propagate`` is ``Tensor.backward`` or its like. A process
    without rows adds nothing.
    """
    if not len(state.z):
        return Losses(*torch.zeros(4, device=state.z.device))
    scale = loss_scale(trunk.denoiser.dtype, state.z.numel())
    found = []
    for part in parts(state, batch, params.micro_batch):
        seen = trunk.with_denoiser(
            trunk.denoiser.replaced(student.weights(dtype=trunk.denoiser.dtype))
        )
        losses = distil_losses(seen, trunk, part.state, c_0, part.batch, params, part.shares)
        propagate(losses.total * scale)
        found.append(Losses(*(term.detach() for term in losses)))
    if scale != 1:
        for value in student.parameters():
            if value.grad is not None:
                value.grad /= scale
    *terms, left = zip(*found, strict=True)
    sums = (torch.stack(parts).sum() for parts in terms)
    return Losses(*sums)._replace(presence=torch.cat(left))


def loss_scale(dtype: torch.dtype, num_values: int) -> float:
    """A power of two near N / 2 for float16, else 1.

    The gradient of a mean over N predictions is 2 d / N with d the error of one, and most of it
    would underflow in float16; scaled, it is near d.
    """
    return float(2 ** max(round(math.log2(num_values)) - 1, 0)) if dtype == torch.float16 else 1.0
