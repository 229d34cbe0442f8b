"""The soft null space of kept texts, in which keys and values may change.

K and V of cross-attention are linear in the token embedding c, so a kept text is untouched if
(W - W_0) c = 0 for its tokens. With M = mean of c c^T over kept tokens,
P = lambda (lambda I + M)^-1 leaves directions that kept texts do not use (P = 1 there) and damps
those that they do (P = lambda / (lambda + s) for energy s). Relatives: SPEED (arXiv:2503.07392)
and Double Projections (arXiv:2604.10032) edit in such a space in closed form; here a
distillation is confined to it.
"""

import functools
import operator
from collections.abc import Mapping

import torch
from torch import Tensor

from safediff.errors import UsageError
from safediff.models.backbone import Condition

_CHUNK_BYTES = 2**26
"""Of the tokens that are in float64 at a time."""


def second_moment(tokens: Tensor) -> Tensor:
    """Mean of c c^T over the tokens (num, d) of the kept texts, (d, d) in float64."""
    parts = tokens.split(max(1, _CHUNK_BYTES // (8 * tokens.shape[1])))
    moments = (part.T @ part for part in map(Tensor.double, parts))
    return functools.reduce(operator.add, moments) / len(tokens)


def soft_projector(moment: Tensor, strength: float) -> Tensor:
    """P = lambda (lambda I + M)^-1 with lambda = strength * trace(M) / d; (d, d) in float32.

    Raises:
        UsageError: M is zero: no kept text has a state, so nothing says what to leave alone.
    """
    width = len(moment)
    if not moment.trace():
        raise UsageError(
            "erase.options.null_space: every state of the kept texts is zero, so they span nothing",
            "add texts to keep, or set null_space: 0",
        )
    scale = strength * moment.trace() / width
    identity = torch.eye(width, dtype=moment.dtype, device=moment.device)
    inverse: Tensor = torch.linalg.inv(scale * identity + moment)
    return (scale * inverse).float()


def relative_change(
    base: Mapping[str, Tensor], changed: Mapping[str, Tensor], condition: Condition
) -> Tensor:
    """Per text, the mean over layers of |dW c| / |W_0 c|: a retention measure without images.

    Args:
        base: W_0 of keys and values by name, each (out, d).
        changed: W under the same names.
        condition: n texts.

    Returns:
        Shape (n,).
    """
    c = condition.hidden
    ratios = [
        (c @ (changed[name] - base[name]).T).flatten(1).norm(dim=1)
        / (c @ base[name].T).flatten(1).norm(dim=1)
        for name in base
    ]
    return torch.stack(ratios).mean(0)
