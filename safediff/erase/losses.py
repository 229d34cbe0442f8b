"""The objectives of SDD and ESD, and the terms that we add to them.

SDD: Kim et al. 2023, arXiv:2307.05977. ESD: Gandikota et al. 2023, arXiv:2303.07345.

Glossary: z latents, t timesteps, c_0 empty prompt, c_s what must go, c_t what is drawn instead, e
the network's answers; theta student, theta_orig frozen original; sg[.] stop-gradient.

The papers write noise predictions. Every target here is a mixture of answers whose weights add up
to 1, so it is the same picture if the network answers with velocities. The loss is then that of the
noise divided by alpha_t^2 (``safediff.models.prediction``): the weight that the network was trained
with, under which early steps count as much as late ones.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from safediff.erase.params import DistilParams, asks_concept
from safediff.erase.remaining import presence
from safediff.erase.rollout import State
from safediff.erase.texts import Batch
from safediff.models.backbone import Backbone, Condition
from safediff.models.prediction import has_levels
from safediff.sample.shards import ALONE, Shards


class Losses(NamedTuple):
    """The terms of one step, each a scalar, and what is left of the concepts."""

    total: Tensor
    erase: Tensor
    keep: Tensor
    anchor: Tensor
    presence: Tensor = torch.zeros(0)
    """Of each row to erase (``safediff.erase.remaining``), (n,); empty where it isn't asked for."""


def distil_losses(
    student: Backbone,
    original: Backbone,
    state: State,
    c_0: Condition,
    batch: Batch,
    params: DistilParams,
    shares: tuple[float, float] = (1.0, 1.0),
) -> Losses:
    """Erase + keep_weight * keep + anchor_weight * anchor.

    ``shares``: of all rows to erase and of all kept ones, how many these are; terms are scaled by
    them, so that those of the parts of a batch add up to those of the batch.

    erase: mean | sg[target] - e_theta(z, t, c_s) |^2 over the first ``num_erase`` rows. With c_t
    what is drawn instead, which is the empty prompt unless the policy says otherwise, the target
    is e_theta(z, t, c_t) (SDD), or with ``target="frozen"``
    e_orig(z, t, c_t) - eta (e_orig(z, t, c_s) - e_orig(z, t, c_t)) (ESD, eq. 5).
    keep: mean | sg[e_orig(z, t, c_keep)] - e_theta(z, t, c_keep) |^2 over the other rows.
    anchor: mean | e_theta(z, t, c_0) - sg[e_orig(z, t, c_0)] |^2 over the erase rows.
    """
    z, t, n, c_s = state.z, state.t, batch.num_erase, batch.c_s
    erased, kept, null = slice(0, n), slice(n, len(z)), c_0.repeat(n)
    asked: Questions = {}
    if n and params.target == "frozen":
        asked["target"] = erased, batch.c_t
    if n and params.anchor_weight:
        asked["null"] = erased, null
    if n and asks_concept(params):
        asked["concept"] = erased, c_s.rows(erased)
    if n < len(z):
        asked["keep"] = kept, c_s.rows(kept)
    e_orig = answers(original, state, asked)
    if n and params.target == "student":
        target = answers(student, state, {"target": (erased, batch.c_t)})["target"]
    elif n and params.eta:
        target = e_orig["target"] - params.eta * (e_orig["concept"] - e_orig["target"])
    elif n:
        target = e_orig["target"]
    e_s = student.denoise(z, t, c_s).float()
    erase = keep = anchor = torch.zeros((), device=z.device)
    left = torch.zeros(0, device=z.device)
    if "concept" in e_orig:
        left = presence(e_s[erased].detach(), e_orig["concept"], e_orig["target"])
    if n:
        erase = shares[0] * F.mse_loss(e_s[erased], target)
    if n < len(z):
        keep = shares[1] * F.mse_loss(e_s[kept], e_orig["keep"])
    if n and params.anchor_weight:
        e_0 = student.denoise(z[erased], t[erased], null).float()
        anchor = shares[0] * F.mse_loss(e_0, e_orig["null"])
    total = erase + params.keep_weight * keep + params.anchor_weight * anchor
    return Losses(total, erase.detach(), keep.detach(), anchor.detach(), left)


Questions = dict[str, tuple[slice, Condition]]
"""By name: rows of the latents, and the texts to ask about them."""


@torch.no_grad()
def answers(model: Backbone, state: State, asked: Questions) -> dict[str, Tensor]:
    """sg[e(z, t, c)] for every question, all in one call of the denoiser; float32."""
    if not asked:
        return {}
    z = torch.cat([state.z[rows] for rows, _ in asked.values()])
    t = torch.cat([state.t[rows] for rows, _ in asked.values()])
    e = model.denoise(z, t, Condition.cat([c for _, c in asked.values()])).float()
    parts = e.split([len(c) for _, c in asked.values()])
    return dict(zip(asked, parts, strict=True))


@torch.no_grad()
def null_drift(
    student: Backbone, original: Backbone, state: State, c_0: Condition, shards: Shards = ALONE
) -> float:
    """|eps_theta(z, t, c_0) - eps_orig(z, t, c_0)| / |eps_orig| on the given latents.

    eps are noise predictions, whatever the network answers with, or velocities with flow matching;
    the answers themselves where the steps do not say what share of z is noise (EDM).
    Of several processes each has some of the latents; all get the value over all of them.
    """
    squares = torch.zeros(2, dtype=torch.float64, device=state.z.device)
    if len(state.z):
        null = c_0.repeat(len(state.z))
        answers = [m.denoise(state.z, state.t, null).float() for m in (original, student)]
        if has_levels(original.scheduler):
            answers = [original.compared(answer, state.z, state.t) for answer in answers]
        eps_orig, eps = answers
        parts = (eps - eps_orig).norm(), eps_orig.norm()
        squares = torch.stack([part.double().square() for part in parts])
    shards.sum([squares])
    return float((squares[0] / squares[1]).sqrt())
