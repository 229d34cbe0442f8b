"""RECE, reliable and efficient concept erasure (Gong et al. 2024, arXiv:2407.12383).

A UCE edit leaves other token embeddings that still lead to the concept. Each epoch finds one in
closed form, c' (``closed_form_attack``), and edits it away as UCE edits a text, from the weights
of the epoch before.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from safediff.erase.closed_form.attack import closed_form_attack
from safediff.erase.closed_form.kv import (
    Pairs,
    guided_pairs,
    guided_texts,
    kv_patch,
    kv_weights,
    token_moment,
)
from safediff.erase.closed_form.params import ReceParams
from safediff.erase.closed_form.uce import edit_factor, uce_weights
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch
from safediff.policy.plan import ConceptPlan


def rece(
    backbone: Backbone, concepts: tuple[ConceptPlan, ...], keep: tuple[str, ...], params: ReceParams
) -> Patch:
    """UCE, then ``num_epochs`` times: find c' of every erased text, give it its guide's place.

    Raises:
        UsageError: the UNet has no cross-attention, or a text is longer than the encoder's window.
    """
    guided = guided_texts(concepts, params.texts, params.repeat_guide)
    pairs = guided_pairs(backbone, guided, params.repeat_tokens)
    kept = _preserved(backbone, keep, params, [guide for _, guide in guided])
    original = kv_weights(backbone.denoiser)
    edited = uce_weights(backbone, concepts, keep, params)
    for _ in range(params.num_epochs):
        # the matrices that are never edited answer to c' too
        way_back = closed_form_attack({**original, **edited}, original, pairs.erased, params.reg)
        factor = edit_factor(
            Pairs(way_back, pairs.guides),
            kept,
            params.repeat_erase_scale,
            params.repeat_keep_scale,
            params.repeat_ridge,
        )
        edited = {name: w @ factor for name, w in edited.items()}
    return kv_patch(backbone, edited, "rece")


def _preserved(
    backbone: Backbone, keep: tuple[str, ...], params: ReceParams, guides: Sequence[str]
) -> Tensor | None:
    """Sum of c c^T over the tokens that a repeated edit preserves, (d, d)."""
    if params.repeat_keep == "guide":
        moments = [
            count * token_moment(backbone, [guide], params.repeat_tokens)
            for guide, count in Counter(guides).items()
        ]
        return torch.stack(moments).sum(0)
    return token_moment(backbone, keep, params.repeat_tokens) if keep else None
