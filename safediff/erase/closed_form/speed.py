"""SPEED (Li et al. 2025, arXiv:2503.07392): an edit in the null space of what is retained.

Symbols: W (out, d) a key or value matrix, D its change; rows of C_t (num, d) are tokens of erased
texts, those of C_a the anchor's tokens that stand for them; n texts; P projects onto directions
that retained tokens hardly use; columns of K (d, k) are tokens that must not move. D minimises

    1/n |D C_t^T - W (C_a - C_t)^T|^2 + r |D|^2 + 1/lambda |D K|^2   subject to D = D P,

and for lambda = 0 the last term is the constraint D K = 0. Published as

    D = W (A - T) P [I - M K (K^T P M K + lambda I)^-1 K^T P] M,   M = (T P + r I)^-1

with T = C_t^T C_t / n and A = C_a^T C_t / n. P M = B is symmetric, which leaves
D = W (A - T) [B - B K (K^T B K + lambda I)^-1 K^T B].

K holds the empty prompt's start token and centres of its others, so with lambda = 0 these stand
still; another of its tokens moves by D times its distance from what K and the null space span.
"""

import torch
from torch import Tensor

from safediff.erase.closed_form.kmeans import kmeans_centres
from safediff.erase.closed_form.kv import (
    guided_pairs,
    guided_texts,
    kv_patch,
    kv_weights,
    token_rows,
)
from safediff.erase.closed_form.params import SpeedParams
from safediff.erase.closed_form.retained import free_directions, retained_moment
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch
from safediff.policy.plan import ConceptPlan


def speed_change(
    weight: Tensor, own: Tensor, anchor: Tensor, free: Tensor, pins: Tensor, r: float, slack: float
) -> Tensor:
    """D, (out, d).

    Args:
        weight: W, (out, d).
        own: T, (d, d).
        anchor: A, (d, d).
        free: N, (d, k) with orthonormal columns; P = N N^T.
        pins: K, (d, num_pins).
        r: weight of the change's size.
        slack: lambda.
    """
    inner = free.T @ own @ free
    inner = inner + r * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    b = free @ torch.linalg.solve(inner, free.T)
    held = b @ pins
    gram = pins.T @ held
    gram = gram + slack * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    # pins that the null space already holds make the gram singular: the pseudo-inverse skips them
    b = b - held @ torch.linalg.pinv(gram, hermitian=True) @ held.T
    change: Tensor = weight @ (anchor - own) @ b
    return change


def unconstrained_change(weight: Tensor, own: Tensor, anchor: Tensor) -> Tensor:
    """W (A - T)(I + T)^-1: the change that looks at erased tokens only, (out, d)."""
    identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
    factor: Tensor = torch.linalg.solve(identity + own, anchor - own, left=False)
    return weight @ factor


def null_pins(backbone: Backbone, params: SpeedParams) -> Tensor:
    """K: the empty prompt's first token and the centres of its other tokens, (d, 1 + centres)."""
    null = token_rows(backbone, [""], "all")
    if len(null) == 1:  # an end token, where neither start nor padding is read
        return null.T
    return torch.cat([null[:1], kmeans_centres(null[1:], params.num_centres, params.seed)]).T


def speed(
    backbone: Backbone,
    concepts: tuple[ConceptPlan, ...],
    keep: tuple[str, ...],
    params: SpeedParams,
) -> Patch:
    """Give erased texts their anchors' keys and values, within what retained tokens leave free.

    Raises:
        UsageError: the UNet has no cross-attention, a text is longer than the encoder's window, or
            the retained tokens leave no direction to edit.
    """
    anchored = guided_texts(concepts, params.texts, params.anchor)
    pairs = guided_pairs(backbone, anchored, params.tokens)
    own, anchor = pairs.own_moment() / len(anchored), pairs.guide_moment() / len(anchored)
    retained = _retained_rows(backbone, keep, params)
    pins = null_pins(backbone, params)
    generator = torch.Generator().manual_seed(params.seed)
    edited = {}
    for name, w in kv_weights(backbone.denoiser, params.matrices).items():
        moment = retained_moment(
            retained, w, unconstrained_change(w, own, anchor), params, generator
        )
        free = free_directions(moment, params.threshold)
        if not free.shape[1]:
            raise UsageError(
                f"erase.options.threshold: kept texts leave no direction of {name} to edit",
                "raise it, or keep fewer texts",
            )
        change = speed_change(w, own, anchor, free, pins, params.ridge, params.pin_slack)
        edited[name] = w + change
    return kv_patch(backbone, edited, "speed")


def _retained_rows(backbone: Backbone, keep: tuple[str, ...], params: SpeedParams) -> Tensor:
    if params.retain == "null" or not keep:
        return token_rows(backbone, [""], "after_start")
    return token_rows(backbone, keep, params.tokens)
