"""Networks on the CPU: what is exported, and what engines are held against, whatever was loaded."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from safediff.models.backbone import Backbone


def on_cpu(network: Any, dtype: torch.dtype, moved: dict[int, Any] | None = None) -> Any:
    """The network in eval mode on the CPU in another type; itself if that is what it is.

    The copy is made there, so it takes no memory of the device. What needs no conversion is shared
    with the original: it is for reading.

    Args:
        network: One of diffusers' or transformers', with ``device`` and ``dtype``.
        dtype: Of its floating-point parameters and buffers.
        moved: Tensors moved already, by ``id``; those that another network holds, too, are shared.
    """
    if (network.dtype, network.device.type, network.training) == (dtype, "cpu", False):
        return network
    memo = {} if moved is None else moved
    for tensor in chain(network.parameters(), network.buffers()):
        memo.setdefault(id(tensor), _moved(tensor, dtype))
    return copy.deepcopy(network, memo).eval()


def references(*models: Backbone) -> list[Backbone]:
    """The models with their denoisers in fp32 on the CPU; what they share, the copies share.

    There, since a GPU's fp32 is not fp32: its convolutions round to TF32 unless told otherwise,
    by more than an engine may differ.
    """
    moved: dict[int, Any] = {}
    return [m.with_denoiser(on_cpu(m.denoiser, torch.float32, moved)) for m in models]


def _moved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    wanted = dtype if tensor.is_floating_point() else tensor.dtype
    found = tensor.detach().to("cpu", wanted)
    return nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found
