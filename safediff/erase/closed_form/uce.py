"""UCE, unified concept editing (Gandikota et al. 2023, arXiv:2308.14761, eq. 7).

Symbols: W_0 (out, d) a key or value matrix, W the new one; c a token of an erased text, c_g the
guide's token that stands for it, c_k a token of a kept text; a, b, lambda the weights of the
three terms. W minimises

    a sum |W c - W_0 c_g|^2 + b sum |W c_k - W_0 c_k|^2 + lambda |W - W_0|^2.

The solution is W = W_0 X with one X for all matrices:
X = (lambda I + a A + b S)(lambda I + a T + b S)^-1, T = sum c c^T, A = sum c_g c^T,
S = sum c_k c_k^T.
"""

import torch
from torch import Tensor

from safediff.erase.closed_form.kv import (
    Pairs,
    guided_pairs,
    guided_texts,
    kv_patch,
    kv_weights,
    token_moment,
)
from safediff.erase.closed_form.params import UceParams
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch
from safediff.policy.plan import ConceptPlan


def edit_factor(
    pairs: Pairs, kept: Tensor | None, erase_scale: float, keep_scale: float, ridge: float
) -> Tensor:
    """X of W = W_0 X, (d, d).

    Args:
        pairs: erased tokens with their guides.
        kept: S, (d, d); None if nothing is kept.
        erase_scale: a.
        keep_scale: b.
        ridge: lambda.
    """
    own = pairs.own_moment()
    common = ridge * torch.eye(len(own), dtype=own.dtype, device=own.device)
    if kept is not None:
        common = common + keep_scale * kept
    factor: Tensor = torch.linalg.solve(
        common + erase_scale * own, common + erase_scale * pairs.guide_moment(), left=False
    )
    return factor


def uce_weights(
    backbone: Backbone, concepts: tuple[ConceptPlan, ...], keep: tuple[str, ...], params: UceParams
) -> dict[str, Tensor]:
    """The edited matrices by name, in float64."""
    guided = guided_texts(concepts, params.texts, params.guide)
    factor = edit_factor(
        guided_pairs(backbone, guided, params.tokens),
        token_moment(backbone, keep, params.tokens) if keep else None,
        params.erase_scale,
        params.keep_scale,
        params.ridge,
    )
    return {name: w @ factor for name, w in kv_weights(backbone.denoiser, params.matrices).items()}


def uce(
    backbone: Backbone, concepts: tuple[ConceptPlan, ...], keep: tuple[str, ...], params: UceParams
) -> Patch:
    """Give erased texts the keys and values of their guides.

    Raises:
        UsageError: the UNet has no cross-attention, or a text is longer than the encoder's window.
    """
    return kv_patch(backbone, uce_weights(backbone, concepts, keep, params), "uce")
