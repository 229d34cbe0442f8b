"""Closing the way back while erasing: some loss texts become the c' that still lead to the concept.

RECE (Gong et al. 2024, arXiv:2407.12383) edits such text states away in closed form, once an
epoch; here they are found anew for every rollout and distilled away like any other text.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from safediff.erase.closed_form.attack import closed_form_attack
from safediff.erase.params import DistilParams
from safediff.erase.texts import Batch


@torch.no_grad()
def harden(
    batch: Batch,
    edited: Mapping[str, Tensor],
    original: Mapping[str, Tensor],
    params: DistilParams,
    generator: torch.Generator,
) -> Batch:
    """The batch with c' for c_s in ``way_back_share`` of its rows to erase, chosen at random.

    Args:
        batch: What the rollout would use.
        edited: Keys and values as they are now, by name, (out, d).
        original: Those of the base, under the same names.
        params: ``way_back_share`` and ``way_back_reg``.
        generator: Chooses the rows.
    """
    count = round(params.way_back_share * batch.num_erase)
    rows = torch.randperm(batch.num_erase, generator=generator)[:count]
    hidden = batch.c_s.hidden.clone()
    hidden[rows] = closed_form_attack(edited, original, hidden[rows], params.way_back_reg)
    return replace(batch, c_s=replace(batch.c_s, hidden=hidden))
