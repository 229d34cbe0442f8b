"""Counts FLOPs of matrices, convolutions and attention."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, and the attention kernel of processors, which it leaves out."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: _attention})


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """From the shapes of one call."""
    return int(sdpa_flop_count(query, key, value))
