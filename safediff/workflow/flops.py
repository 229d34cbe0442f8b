"""What erasing computed, estimated from one counted UNet pass."""

from typing import Any

import torch

from safediff.models.backbone import Backbone
from safediff.models.flops import flop_counter

HOW = (
    "sample passes of the UNet, a forward and backward counted as three, times the FLOPs of "
    "matrices, convolutions and attention of one forward of one sample; text encoder, VAE and "
    "optimiser not counted"
)
CLOSED_FORM = "not estimated: solved in closed form, without UNet passes"


@torch.no_grad()
def flop_estimate(base: Backbone, num_passes: int) -> dict[str, Any]:
    """The estimate as the certificate holds it; no value where no pass was made."""
    if num_passes == 0:
        return {"value": None, "per_unet_pass": None, "how": CLOSED_FORM}
    condition = base.null()
    z = torch.zeros(1, *base.latent_shape).to(condition.hidden)
    with flop_counter() as counter:
        base.denoise(z, torch.tensor(500, device=z.device), condition)
    per_pass = float(counter.get_total_flops())
    return {"value": num_passes * per_pass, "per_unet_pass": per_pass, "how": HOW}
