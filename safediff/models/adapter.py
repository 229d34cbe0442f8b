"""Low-rank adapters (LoRA, arXiv:2106.09685) in the form that diffusers loads."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from safediff.models.patch import save_whole

Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""By the name of the tensor that is changed: A (r, in) and B (out, r) of W = W_0 + B A."""


def save_adapter(adapter: Adapter, path: Path, component: str = "unet") -> None:
    """Write a file for ``pipeline.load_lora_weights(folder, weight_name=...)``; alpha is the rank.

    Raises:
        Inconclusive: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in adapter.items():
        module = f"{component}.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = a
        tensors[f"{module}.lora_B.weight"] = b
    save_whole(tensors, path, {"format": "pt"})
