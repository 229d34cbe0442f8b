"""The SDD objective (Kim et al. 2023, arXiv:2307.05977) and the terms we add to it.

Glossary: z latents, t timesteps, c_0 empty prompt, c_s what must go, e noise predictions;
theta student, theta_orig frozen original; sg[.] stop-gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from safediff.erase.params import SddParams
from safediff.erase.rollout import State
from safediff.models.backbone import Backbone, Condition


class Losses(NamedTuple):
    """The terms of one step, each a scalar."""

    total: Tensor
    erase: Tensor
    keep: Tensor
    anchor: Tensor


def sdd_losses(
    student: Backbone,
    original: Backbone,
    state: State,
    c_0: Condition,
    c_s: Condition,
    num_erase: int,
    params: SddParams,
) -> Losses:
    """Erase + keep_weight * keep + anchor_weight * anchor.

    erase: mean | sg[e_theta(z, t, c_0)] - e_theta(z, t, c_s) |^2 over the first ``num_erase``
    rows; with ``target="frozen"`` the first term is the original's.
    keep: mean | sg[e_orig(z, t, c_keep)] - e_theta(z, t, c_keep) |^2 over the other rows.
    anchor: mean | e_theta(z, t, c_0) - sg[e_orig(z, t, c_0)] |^2 over the erase rows.
    """
    z, t, n = state.z, state.t, num_erase
    erase_rows, keep_rows = slice(0, n), slice(n, None)
    null = c_0.repeat(n)
    with torch.no_grad():
        source = student if params.target == "student" else original
        e_0 = source.denoise(z[erase_rows], t[erase_rows], null)
    e_s = student.denoise(z, t, c_s)
    erase = F.mse_loss(e_s[erase_rows].float(), e_0.float())
    keep = anchor = torch.zeros((), device=z.device)
    if n < len(z):
        with torch.no_grad():
            e_keep = original.denoise(z[keep_rows], t[keep_rows], c_s.rows(keep_rows))
        keep = F.mse_loss(e_s[keep_rows].float(), e_keep.float())
    if params.anchor_weight:
        with torch.no_grad():
            e_orig = original.denoise(z[erase_rows], t[erase_rows], null)
        anchor = F.mse_loss(
            student.denoise(z[erase_rows], t[erase_rows], null).float(), e_orig.float()
        )
    total = erase + params.keep_weight * keep + params.anchor_weight * anchor
    return Losses(total, erase.detach(), keep.detach(), anchor.detach())


@torch.no_grad()
def null_drift(student: Backbone, original: Backbone, state: State, c_0: Condition) -> float:
    """|e_theta(z, t, c_0) - e_orig(z, t, c_0)| / |e_orig(z, t, c_0)| on the given latents."""
    null = c_0.repeat(len(state.z))
    e_orig = original.denoise(state.z, state.t, null).float()
    e = student.denoise(state.z, state.t, null).float()
    return float((e - e_orig).norm() / e_orig.norm())
