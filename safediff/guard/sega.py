"""SEGA: semantic guidance away from texts (arXiv:2301.12247, as diffusers computes it)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.guard.base import Guard, Guidance
from safediff.guard.params import SegaParams
from safediff.models.backbone import Backbone, Condition


@dataclass(frozen=True, kw_only=True)
class Sega(Guard):
    """One more branch a text; their guidance is added outside s_g."""

    params: SegaParams

    def _start(self, backbone: Backbone, c_0: Condition, c: Condition, scale: float) -> Guidance:
        """See ``Guard``."""
        c_s = backbone.encode(self.params.branch_texts(self.texts))
        edits = [c_s.rows(slice(k, k + 1)).repeat(len(c)) for k in range(len(c_s))]
        return _SegaGuidance([c_0, c, *edits], scale, self.params)


class _SegaGuidance(Guidance):
    def __init__(self, branches: Sequence[Condition], scale: float, params: SegaParams) -> None:
        super().__init__(branches, scale)
        self.params = params
        self.nu: Tensor | float = 0.0

    def __call__(self, step: int, stacked: Tensor) -> Tensor:
        """The prediction e_0 + s_g (e_c - e_0) + g; without g during warm-up.

        g = sum of the edits + s_m nu; nu <- beta nu + (1 - beta) g, also then.
        """
        e_0, e_c, *e_s = stacked.chunk(self.num_branches)
        s_m, beta = self.params.momentum_scale, self.params.momentum_decay
        edits = torch.stack([removal(e_0, e, self.params) for e in e_s])
        g = edits.sum(0) + s_m * self.nu
        self.nu = beta * self.nu + (1 - beta) * g
        guidance = self.scale * (e_c - e_0)
        if step >= self.params.num_warmup_steps:
            guidance = guidance + g
        return e_0 + guidance


def removal(e_0: Tensor, e_s: Tensor, params: SegaParams) -> Tensor:
    """-s_e (e_s - e_0) where its size reaches the quantile of its picture and channel, else 0."""
    g = -params.edit_scale * (e_s - e_0)
    size = g.abs()
    # torch.quantile takes no half precision.
    limit = size.flatten(2).float().quantile(params.threshold, dim=2).to(g.dtype)
    # In this form a g that is not a number stays one and is seen in the picture.
    return torch.where(size < limit[..., None, None], 0, g)
