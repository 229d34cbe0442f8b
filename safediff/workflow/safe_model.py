"""A backbone with a patch applied for good: base and safe network side by side."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import nn

from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, apply_patch


def patched(base: Backbone, patch: Patch) -> Backbone:
    """The base with the patch in a network of its own; the base is left as it is.

    Both hold the same tensors wherever the patch changes nothing, so the second one takes the
    memory of the patch only.

    Raises:
        UsageError: the patch belongs to another base.
    """
    network = base.denoiser
    tensors = chain(network.named_parameters(), network.named_buffers())
    shared: dict[int, Any] = {id(t): t for name, t in tensors if name not in patch.tensors}
    safe = copy.deepcopy(network, shared)
    apply_patch(safe, patch)
    return base.with_denoiser(safe)


def share_equal(network: nn.Module, other: nn.Module) -> None:
    """Give ``other`` the parameters of ``network`` wherever the two are equal, to save memory.

    Both must be of one architecture, and are for reading from then on.
    """
    modules = dict(other.named_modules())
    for name, module in network.named_modules():
        for key, w in module.named_parameters(recurse=False):
            own = getattr(modules[name], key)
            if (own.dtype, own.device) == (w.dtype, w.device) and torch.equal(own, w):
                setattr(modules[name], key, w)


def share_parts(model: Backbone, other: Backbone) -> None:
    """``share_equal`` for every part that both models have in one architecture."""
    theirs = other.components()
    for name, part in model.components().items():
        if _alike(part, theirs.get(name)):
            share_equal(part, theirs[name])


def _alike(part: Any, other: Any) -> bool:
    """Whether both are networks with the same names of parameters."""
    if not (isinstance(part, nn.Module) and isinstance(other, nn.Module)):
        return False
    names, others = ([name for name, _ in m.named_parameters()] for m in (part, other))
    return names == others
