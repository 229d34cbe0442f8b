"""SLD: Safe Latent Diffusion (arXiv:2211.05105, equations 3 to 8, as diffusers computes them)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.guard.base import Guard, Guidance
from safediff.guard.params import SldParams
from safediff.models.backbone import Backbone, Condition


@dataclass(frozen=True, kw_only=True)
class Sld(Guard):
    """One more branch, for all texts joined; its guidance lies inside the bracket of s_g."""

    params: SldParams

    def _start(self, backbone: Backbone, c_0: Condition, c: Condition, scale: float) -> Guidance:
        """See ``Guard``."""
        c_s = backbone.encode(self.params.branch_texts(self.texts))
        return _SldGuidance([c_0, c, c_s.repeat(len(c))], scale, self.params)


class _SldGuidance(Guidance):
    def __init__(self, branches: Sequence[Condition], scale: float, params: SldParams) -> None:
        super().__init__(branches, scale)
        self.params = params
        self.nu: Tensor | float = 0.0

    def __call__(self, step: int, stacked: Tensor) -> Tensor:
        """The prediction e_0 + s_g [(e_c - e_0) - gamma]; without gamma during warm-up.

        gamma = mu (e_s - e_0) + s_m nu; nu <- beta_m nu + (1 - beta_m) gamma, also then.
        """
        e_0, e_c, e_s = stacked.chunk(3)
        s_m, beta_m = self.params.momentum_scale, self.params.momentum_decay
        gamma = safety_weight(e_c, e_s, self.params) * (e_s - e_0) + s_m * self.nu
        self.nu = beta_m * self.nu + (1 - beta_m) * gamma
        bracket = e_c - e_0
        if step >= self.params.num_warmup_steps:
            bracket = bracket - gamma
        return e_0 + self.scale * bracket


def safety_weight(e_c: Tensor, e_s: Tensor, params: SldParams) -> Tensor:
    """Mu of every element (equation 6): min(1, s_S |d|) where d = e_c - e_s < lambda, else 0."""
    d = e_c - e_s
    phi = (params.safety_scale * d.abs()).clamp(max=1)
    return torch.where(d < params.threshold, phi, 0)
