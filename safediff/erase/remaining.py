"""How much of each concept is left while it is erased, and drawing concepts by it.

Concepts do not go at one pace: with all of them in turn, some are long gone while others still
stand, and what is done to the former then only costs what must be kept. The original's answers to
a concept and to what is drawn instead, which ESD's target needs anyway, span the direction between
them. Where the student's answer lies on it,

    r = <e_theta(c_s) - e_orig(c_t), d> / |d|^2,    d = e_orig(c_s) - e_orig(c_t),

with all answers at the same z and t, is 1 at the start, 0 where the concept is answered like c_t,
and -eta at ESD's target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

POWER = 3.0
"""How steeply a concept's chance rises with what is left of it."""
LEAST = 0.02
"""Added to what is left, so that no concept is ever out of the draw."""
PACE = 0.3
"""Weight of the newest r in a concept's running mean."""


def presence(e_s: Tensor, e_concept: Tensor, e_instead: Tensor) -> Tensor:
    """R of every row, (n,); all arguments (n, ...) on the same latents."""
    direction = (e_concept - e_instead).flatten(1)
    along = ((e_s - e_instead).flatten(1) * direction).sum(1)
    return along / direction.square().sum(1).clamp(min=torch.finfo(direction.dtype).tiny)


def update(left: Tensor, units: Sequence[int], found: Tensor) -> None:
    """Put rows' r (n,) into the running means ``left`` (num_units,), in place, one unit a row.

    Rows of one unit count by their mean, so the order of the rows does not matter.
    """
    rows = torch.as_tensor(units, dtype=torch.long)
    sums = torch.zeros_like(left).index_add_(0, rows, found.to(left))
    counts = torch.zeros_like(left).index_add_(0, rows, torch.ones_like(found.to(left)))
    seen = counts > 0
    left[seen] += PACE * (sums[seen] / counts[seen] - left[seen])


def choose(left: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Indices (num,) of units to erase next: whole rounds of all, the rest by what is left.

    Nothing left of any (or of none measured yet, all at 1) means equal chances.
    """
    rounds, rest = divmod(num, len(left))
    everyone = torch.arange(len(left)).repeat(rounds)
    if not rest:
        return everyone
    weights = (left.clamp(min=0) + LEAST).pow(POWER)
    drawn = torch.multinomial(weights, rest, replacement=False, generator=generator)
    return torch.cat([everyone, drawn])
