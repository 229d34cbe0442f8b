"""A backbone with a patch applied for good: base and safe UNet side by side."""

import copy

from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, apply_patch


def patched(base: Backbone, patch: Patch) -> Backbone:
    """The base with the patch in a UNet of its own; the base is left as it is.

    Raises:
        UsageError: the patch belongs to another base.
    """
    unet = copy.deepcopy(base.denoiser)
    apply_patch(unet, patch)
    return base.with_denoiser(unet)
