"""Runs a closed-form eraser by its parameters."""

from safediff.erase.closed_form.kv import require_cross_attention
from safediff.erase.closed_form.params import ReceParams, SpeedParams, UceParams
from safediff.erase.closed_form.rece import rece
from safediff.erase.closed_form.speed import speed
from safediff.erase.closed_form.uce import uce
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch
from safediff.policy.plan import ConceptPlan


def solve(
    backbone: Backbone,
    concepts: tuple[ConceptPlan, ...],
    keep: tuple[str, ...],
    params: UceParams | SpeedParams,
) -> Patch:
    """The patch of UCE, RECE or SPEED, whichever ``params`` belong to.

    Raises:
        UsageError: see the erasers.
    """
    require_cross_attention(backbone.denoiser)
    if isinstance(params, ReceParams):  # RECE's settings extend UCE's
        return rece(backbone, concepts, keep, params)
    if isinstance(params, UceParams):
        return uce(backbone, concepts, keep, params)
    return speed(backbone, concepts, keep, params)
