"""A closed-form start for a distillation of keys and values, and what it says of kept texts.

Symbols: W_0 (out, d) a key or value matrix of the base; rows of C (n, d) are the tokens of every
phrasing that must go, those of C_t the tokens at the same places of what is drawn instead; P (d, d)
projects onto what kept texts leave free (``safediff.erase.null_space``). The student trains D in
W = W_0 + D P, and begins where

    1/n |D P C^T - W_0 (C_t - C)^T|^2 + s/a |D|^2,    s = tr(P T P) / d

is least: D = W_0 (A - T) P (P T P + s/a I)^-1 with T = C^T C / n, A = C_t^T C / n. That is UCE's
aim (Gandikota et al. 2023, arXiv:2308.14761) in SPEED's kind of space (Li et al. 2025,
arXiv:2503.07392), both softened. It takes no UNet pass and removes most of a concept; the
distillation removes the rest.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from safediff.erase.closed_form.kv import Pairs
from safediff.erase.null_space import relative_change
from safediff.models.backbone import Condition

INFLUENCE_POWER = 3
"""How steeply the chance of a kept text rises with what the start changes of it: the few that an
edit would take along are then drawn several times as often as the many that it leaves alone."""
_CHUNK = 64
"""Texts whose keys and values are computed at a time."""


def closed_form_start(
    base: Mapping[str, Tensor], pairs: Pairs, projector: Tensor | None, strength: float
) -> dict[str, Tensor]:
    """D of every matrix, (out, d) in float32.

    Args:
        base: W_0 by name, (out, d).
        pairs: C and C_t in float64.
        projector: P, (d, d); None: everything is free.
        strength: a; 0 would leave everything as it is.
    """
    identity = torch.eye(pairs.erased.shape[1], dtype=torch.float64, device=pairs.erased.device)
    p = identity if projector is None else projector.double()
    own = p @ pairs.own_moment() @ p / len(pairs.erased)
    aim = (pairs.guide_moment() - pairs.own_moment()) @ p / len(pairs.erased)
    ridge = own.trace() / len(own) / strength
    factor = torch.linalg.solve(own + ridge * identity, aim, left=False)
    return {name: (w.double() @ factor).float() for name, w in base.items()}


def influence(base: Mapping[str, Tensor], started: Mapping[str, Tensor], kept: Tensor) -> Tensor:
    """How often each kept text should be drawn, relative to the others, (num,).

    Args:
        base: W_0 by name.
        started: W at the start, under the same names.
        kept: the states (num, tokens, d) of the kept texts that keys and values read.
    """
    changes = torch.cat([*_changes(base, started, kept)])
    return (changes / changes.mean()).pow(INFLUENCE_POWER).cpu()


def _changes(
    base: Mapping[str, Tensor], started: Mapping[str, Tensor], kept: Tensor
) -> Iterator[Tensor]:
    for rows in kept.split(_CHUNK):
        yield relative_change(base, started, Condition(rows.float()))
