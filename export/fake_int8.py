"""What int8 does to a linear layer, computed in PyTorch: one layer at a time can be looked at.

The same rounding as ``int8.quantize_engine`` and ONNX Runtime's DynamicQuantizeLinear do: weights
int8 per output channel, activations uint8 with one scale and zero point for the whole tensor, found
anew at every call.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safediff.export.int8 import int8_weights

STEPS = 255
"""Of an activation, from its smallest to its largest value, zero included."""


def linear_layers(unet: nn.Module) -> dict[str, nn.Linear]:
    """The layers that int8 changes, by the names of their weights."""
    return {
        f"{name}.weight": module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear)
    }


def rounded_weight(weight: Tensor) -> Tensor:
    """A matrix (out, in) as int8 holds it, and back."""
    q, scale = int8_weights(weight.detach().cpu().float().numpy())
    return torch.from_numpy(np.ascontiguousarray((q * scale).T)).to(weight)


def rounded_activation(x: Tensor) -> Tensor:
    """x, any shape, as uint8 holds it, and back."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / STEPS
    if not scale > 0:
        return x
    zero = (-low / scale).round().clamp(0, STEPS)
    return (((x / scale).round() + zero).clamp(0, STEPS) - zero) * scale


@contextmanager
def in_int8(layers: Iterable[nn.Linear]) -> Iterator[None]:
    """These layers compute as in int8; afterwards they are what they were, bit for bit."""
    undo: list[tuple[nn.Linear, Tensor, Any]] = []
    try:
        for layer in layers:
            weight = layer.weight.data
            hook = layer.register_forward_pre_hook(lambda _, given: (rounded_activation(given[0]),))
            undo.append((layer, weight, hook))
            layer.weight.data = rounded_weight(weight)
        yield
    finally:
        for layer, weight, hook in undo:
            layer.weight.data = weight
            hook.remove()
