"""What is trained: the chosen tensors of the UNet, plain or confined to a null space.

The frozen rest exists once; student, teacher and original differ in these tensors only.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from safediff.erase.params import Trainable
from safediff.errors import UsageError

_Parts = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
_CROSS: _Parts = (".attn2.",), (".attn2.to_k.", ".attn2.to_v."), (".attn1.",)
"""Parts of names: attention to the text, its keys and values, other attention."""
_JOINT: _Parts = (
    (".add_q_proj.", ".add_k_proj.", ".add_v_proj.", ".to_add_out.", ".norm_added_"),
    (".add_k_proj.", ".add_v_proj."),
    (".attn.", ".attn2."),
)
"""``attn2`` of Stable Diffusion 3.5 is attention of the picture to itself."""
_OUTER = (
    *("conv_out.", "time_embedding."),
    *("proj_out.", "norm_out.", "adaln_single.", "time_text_embed.", "scale_shift_table"),
)
"""Output and time layers, which ``noxattn`` leaves as they are."""


def is_joint(denoiser: nn.Module) -> bool:
    """Whether text and picture attend to each other in one attention with projections of each."""
    return any(".attn.add_k_proj." in name for name, _ in denoiser.named_parameters())


def trainable_names(unet: nn.Module, which: Trainable) -> list[str]:
    """Names of the parameters that an eraser may change.

    With joint attention (SD3, FLUX) the counterpart of cross-attention is what makes queries, keys,
    values and outputs of the text stream; the rest of attention is the picture stream's, or shared.

    Raises:
        UsageError: nothing in this denoiser matches.
    """
    every = [name for name, _ in unet.named_parameters()]
    text, keys_and_values, rest = _JOINT if is_joint(unet) else _CROSS

    def chosen(name: str) -> bool:
        of_text = any(part in name for part in text)
        if which == "kv":
            return any(part in name for part in keys_and_values)
        if which == "xattn":
            return of_text
        if which == "selfattn":
            return not of_text and any(part in name for part in rest)
        if which == "noxattn":
            return not of_text and not name.startswith(_OUTER)
        return True

    names = [name for name in every if chosen(name)]
    if not names:
        raise UsageError(f"erase.options.trainable: this UNet has no {which} parameters")
    return names


_KEPT_FLOAT = ("timestep", "guidance")
"""Inputs that half precision would round to others; the network casts what it makes of them."""
_OF_ALL_ROWS = ("txt_ids", "img_ids")
"""Inputs without a row for each latent."""
Call = Callable[[nn.Module, dict[str, Tensor], tuple[Any, ...], dict[str, Any]], Any]
"""``functional_call``, or something that computes the same."""


class PatchedUNet:
    """A UNet with some tensors replaced; called like the UNet itself, which stays as it is.

    Tensors and inputs are cast to the UNet's precision inside the graph, so gradients reach a
    float32 tensor as float32; the answer has the precision of the latents. Nothing frozen is
    copied.
    """

    def __init__(
        self,
        unet: nn.Module,
        weights: Mapping[str, Tensor],
        call: Call = functional_call,
        max_rows: int = 0,
    ) -> None:
        """``max_rows``: most rows at a time where no gradient is wanted; 0: all."""
        own = dict(unet.named_parameters())
        self.unet, self.call, self.max_rows = unet, call, max_rows
        self.weights = {name: w.to(own[name].dtype) for name, w in weights.items()}
        self.config: Any = unet.config
        self.dtype: torch.dtype = next(unet.parameters()).dtype

    def replaced(self, weights: Mapping[str, Tensor]) -> "PatchedUNet":
        """The same UNet with other tensors."""
        return PatchedUNet(self.unet, weights, self.call, self.max_rows)

    @contextmanager
    def in_place(self) -> Iterator[Any]:
        """Within, the UNet itself, holding the replaced tensors, for calls without gradients.

        It computes in its own precision and casts nothing: ``Cast`` does. Yields this object as it
        is where cuts or compiled code stand around the UNet.
        """
        if self.max_rows or self.call is not functional_call:
            yield self
            return
        own = dict(self.unet.named_parameters())
        before = {name: own[name].data for name in self.weights}
        try:
            for name, w in self.weights.items():
                own[name].data = w.detach()
            yield self.unet
        finally:
            for name, data in before.items():
                own[name].data = data

    def __call__(self, z: Tensor, *args: Tensor, **kwargs: Any) -> Any:
        """Run the UNet with the replaced tensors; arguments as the UNet's own."""
        if torch.is_grad_enabled() or not 0 < self.max_rows < len(z):
            return self._answer(z, args, kwargs)
        parts = []
        for start in range(0, len(z), self.max_rows):
            rows = slice(start, start + self.max_rows)
            cut = partial(_rows_of, rows=rows, count=len(z))
            own = {k: v if k in _OF_ALL_ROWS else tree_map(cut, v) for k, v in kwargs.items()}
            parts.append(self._answer(z[rows], tree_map(cut, args), own))
        return tree_map(lambda *of_parts: torch.cat(of_parts), *parts)

    def _answer(self, z: Tensor, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        inputs = _inputs(kwargs, self.dtype)
        out = self.call(self.unet, self.weights, (z.to(self.dtype), *args), inputs)
        return tree_map(partial(_cast, dtype=z.dtype), out)


class Cast:
    """A UNet of another precision than its callers', who get answers in that of their latents.

    A text that comes in again is cast once: the UNet sees the same tensor at every step.
    """

    def __init__(self, unet: Any, dtype: torch.dtype) -> None:
        """``dtype``: the precision of the UNet."""
        self.unet, self.dtype = unet, dtype
        self.config: Any = unet.config
        self._text: tuple[Tensor | None, Any] = (None, None)

    def __call__(self, z: Tensor, *args: Tensor, **kwargs: Any) -> Any:
        """Run the UNet; arguments as the UNet's own, the text among them by name."""
        text = kwargs["encoder_hidden_states"]
        if self._text[0] is not text:
            self._text = (text, text.to(self.dtype))
        inputs = _inputs(kwargs | {"encoder_hidden_states": self._text[1]}, self.dtype)
        out = self.unet(z.to(self.dtype), *args, **inputs)
        return tree_map(partial(_cast, dtype=z.dtype), out)


def _inputs(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """What a UNet gets by name, in its precision."""
    cast = partial(_cast, dtype=dtype)
    return {k: v if k in _KEPT_FLOAT else tree_map(cast, v) for k, v in given.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in another precision; the same object where they have it."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _rows_of(value: Any, rows: slice, count: int) -> Any:
    """The rows of a tensor that has one for each latent."""
    return value[rows] if isinstance(value, Tensor) and value.shape[:1] == (count,) else value


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
        only_matrices = rank or projector is not None
        self.names = [name for name in names if not only_matrices or state[name].ndim == 2]
        self.base = {name: state[name].detach() for name in self.names}
        self.values = nn.ParameterList(self._start(torch.Generator().manual_seed(seed)))

    def _start(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Values under which every tensor is the base's; float32, whatever the UNet is in."""
        for name in self.names:
            w = self._start_of(name)
            if self.rank:
                rows, columns = w.shape
                a = torch.randn(self.rank, columns, generator=generator) / math.sqrt(columns)
                yield a.to(w)
                yield torch.zeros(rows, self.rank).to(w)
            else:
                yield w.clone() if self.projector is None else torch.zeros_like(w)

    def _start_of(self, name: str) -> Tensor:
        return self.base[name].float()

    @torch.no_grad()
    def begin_at(self, start: Mapping[str, Tensor]) -> None:
        """Start from D of every matrix (W_0 + D P) instead of the base's weights.

        With a rank r: from the r largest singular values of each D.
        """
        for index, name in enumerate(self.names):
            d = start[name]
            if not self.rank:
                self.values[index].add_(d)  # W_0, or zeros under a projector
                continue
            u, s, v = torch.linalg.svd(d, full_matrices=False)
            u, s, v = u[:, : self.rank], s[: self.rank].sqrt(), v[: self.rank]
            self.values[2 * index].copy_(s[:, None] * v)
            self.values[2 * index + 1].copy_(u * s)

    def weights(
        self, values: Iterable[Tensor] | None = None, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """The UNet tensors for the student's own values, or for others (the teacher's).

        They are fetched to the student's device, computed in float32 and cast one by one.
        """
        chosen = self.values if values is None else values
        if self.rank:
            pairs = self.factors(chosen).items()
            return {n: (self._start_of(n) + b @ a).to(dtype) for n, (a, b) in pairs}
        named = zip(self.names, self._here(chosen), strict=True)
        if self.projector is None:
            return {name: value.to(dtype) for name, value in named}
        p = self.projector
        return {name: (self._start_of(name) + value @ p).to(dtype) for name, value in named}

    def _here(self, values: Iterable[Tensor]) -> Iterator[Tensor]:
        """On the student's device, one by one."""
        device = self.values[0].device
        return (value.to(device) for value in values)

    def factors(self, values: Iterable[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """A (r, in) and B (out, r) of every tensor, the projector multiplied into A."""
        here = list(self._here(values))
        pairs = zip(self.names, here[::2], here[1::2], strict=True)
        p = self.projector
        return {name: (a if p is None else a @ p, b) for name, a, b in pairs}
