"""What is trained: the chosen tensors of the UNet, plain or confined to a null space.

The frozen rest exists once; student, teacher and original differ in these tensors only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from safediff.erase.params import Trainable
from safediff.errors import UsageError


def trainable_names(unet: nn.Module, which: Trainable) -> list[str]:
    """Names of the parameters that an eraser may change.

    Raises:
        UsageError: nothing in this UNet matches.
    """
    outer = ("conv_out.", "time_embedding.")

    def chosen(name: str) -> bool:
        if which == "kv":
            return "attn2.to_k." in name or "attn2.to_v." in name
        if which == "xattn":
            return ".attn2." in name
        if which == "selfattn":
            return ".attn1." in name
        if which == "noxattn":
            return ".attn2." not in name and not name.startswith(outer)
        return True

    names = [name for name, _ in unet.named_parameters() if chosen(name)]
    if not names:
        raise UsageError(f"erase.options.trainable: this UNet has no {which} parameters")
    return names


class PatchedUNet:
    """A UNet with some tensors replaced; called like the UNet itself, which stays as it is."""

    def __init__(self, unet: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.unet = unet
        self.weights = dict(weights)
        self.config: Any = unet.config
        self.dtype: torch.dtype = next(unet.parameters()).dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the UNet with the replaced tensors; arguments as the UNet's own."""
        return functional_call(self.unet, self.weights, args, kwargs)


class Student(nn.Module):
    """The trained tensors: W itself, or D in W = W_0 + D P where a projector P is given."""

    def __init__(self, unet: nn.Module, names: list[str], projector: Tensor | None = None) -> None:
        super().__init__()
        state = dict(unet.named_parameters())
        self.names = names
        self.base = {name: state[name].detach().clone().float() for name in names}
        self.projector = projector
        self.values = nn.ParameterList(
            torch.zeros_like(self.base[n]) if projector is not None else self.base[n].clone()
            for n in names
        )

    def weights(self, values: list[Tensor] | None = None) -> dict[str, Tensor]:
        """The UNet tensors for the student's own values, or for others (the teacher's)."""
        chosen = list(self.values) if values is None else values
        if self.projector is None:
            return dict(zip(self.names, chosen, strict=True))
        return {
            name: self.base[name] + value @ self.projector
            for name, value in zip(self.names, chosen, strict=True)
        }
