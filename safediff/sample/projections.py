"""What cross-attention makes of a text does not change from step to step: it is computed once.

Keys and values of the text states are a matrix product each per layer (8 % of an embedded UNet's
work, 1 % of Stable Diffusion's). The same product on the same operands gives the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

TEXT_PROJECTIONS = ("attn2.to_k", "attn2.to_v")


@contextmanager
def text_projections_once(unet: Any) -> Iterator[None]:
    """Within, every projection of a text is computed once as long as the same tensor comes in.

    Weights must not change meanwhile. Engines, which are no PyTorch modules, stay as they are.
    """
    if not isinstance(unet, nn.Module) or torch.is_grad_enabled():
        yield
        return
    layers = [layer for name, layer in unet.named_modules() if name.endswith(TEXT_PROJECTIONS)]
    layers = [layer for layer in layers if "forward" not in vars(layer)]  # else already within
    for layer in layers:
        layer.forward = partial(_remembered, layer.forward, [])
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _remembered(
    forward: Callable[[Tensor], Tensor], memory: list[tuple[Tensor, Tensor]], text: Tensor
) -> Tensor:
    """The last answer, if this is the tensor it was given for."""
    if not memory or memory[0][0] is not text:
        memory[:] = [(text, forward(text))]
    return memory[0][1]
