"""What is trained: the chosen tensors of the UNet, plain or confined to a null space.

The frozen rest exists once; student, teacher and original differ in these tensors only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
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
    """The trained values, and the UNet tensors that they stand for.

    Plain: the tensors W themselves. With a projector P: D in W = W_0 + D P. With a rank r:
    A (r, in) and B (out, r) in W = W_0 + B A, or W_0 + B A P (LoRA, arXiv:2106.09685, alpha = r).
    """

    def __init__(
        self,
        unet: nn.Module,
        names: list[str],
        projector: Tensor | None = None,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        state = dict(unet.named_parameters())
        self.rank, self.projector = rank, projector
        self.names = [name for name in names if not rank or state[name].ndim == 2]
        self.base = {name: state[name].detach().clone().float() for name in self.names}
        self.values = nn.ParameterList(self._start(torch.Generator().manual_seed(seed)))

    def _start(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Values under which every tensor is the base's."""
        for w in self.base.values():
            if self.rank:
                rows, columns = w.shape
                a = torch.randn(self.rank, columns, generator=generator) / math.sqrt(columns)
                yield a.to(w)
                yield torch.zeros(rows, self.rank).to(w)
            else:
                yield w.clone() if self.projector is None else torch.zeros_like(w)

    def weights(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The UNet tensors for the student's own values, or for others (the teacher's)."""
        chosen = list(self.values) if values is None else list(values)
        if self.rank:
            adapters = self.factors(chosen)
            return {n: w + adapters[n][1] @ adapters[n][0] for n, w in self.base.items()}
        if self.projector is None:
            return dict(zip(self.names, chosen, strict=True))
        return {
            name: self.base[name] + value @ self.projector
            for name, value in zip(self.names, chosen, strict=True)
        }

    def factors(self, values: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """A (r, in) and B (out, r) of every tensor, the projector multiplied into A."""
        pairs = zip(self.names, values[::2], values[1::2], strict=True)
        p = self.projector
        return {name: (a if p is None else a @ p, b) for name, a, b in pairs}
