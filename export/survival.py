"""Delta survival: what of an edit is left after the weights were rounded to a precision.

Symbols: W_base, W_safe a tensor before and after erasing; Q rounding to the engine's precision and
back; d = W_safe - W_base the edit; q = Q(W_safe) - Q(W_base) what a rounded engine keeps of it.
An edit much smaller than the rounding step drowns in it, and the concept may come back.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safediff.export.int8 import int8_weights
from safediff.export.int8_weights import int8_channels, to_quantize

MIN_COSINE = 0.5
"""Below it less than half of what is left points the way of the edit: a warning."""
INT4_LEVELS, INT4_GROUP = 7, 128


@dataclass(frozen=True, kw_only=True)
class LayerSurvival:
    """One edited tensor."""

    name: str
    cosine: float
    """Between d and q; 0 where nothing of the edit is left."""
    noise_ratio: float
    """||q - d|| / ||d||."""


@dataclass(frozen=True, kw_only=True)
class Survival:
    """All edited tensors of a UNet, worst first."""

    precision: str
    layers: tuple[LayerSurvival, ...]

    @property
    def min_cosine(self) -> float:
        """Of the worst tensor."""
        return min((layer.cosine for layer in self.layers), default=1.0)

    @property
    def max_noise_ratio(self) -> float:
        """Of the worst tensor."""
        return max((layer.noise_ratio for layer in self.layers), default=0.0)

    @property
    def survives(self) -> bool:
        """Whether every tensor keeps ``MIN_COSINE``."""
        return self.min_cosine >= MIN_COSINE

    def to_json(self) -> dict[str, Any]:
        """Plain data: the extremes and every tensor."""
        return asdict(self) | {
            "min_cosine": self.min_cosine,
            "max_noise_ratio": self.max_noise_ratio,
            "survives": self.survives,
        }


def measure_survival(
    base: Mapping[str, Tensor],
    safe: Mapping[str, Tensor],
    precision: str,
    exact: Collection[str] = (),
) -> Survival:
    """Compare the edit before and after rounding, tensor by tensor.

    Args:
        base: State of the base UNet.
        safe: State of the erased UNet, same names.
        precision: A key of ``ROUNDINGS``.
        exact: Tensors that the engine does not round, by name.
    """
    layers = []
    for name, w_safe in safe.items():
        edited, original = w_safe.float().cpu(), base[name].float().cpu()
        if torch.equal(edited, original):
            continue
        d = (edited - original).double().flatten()
        rounded = ROUNDINGS["fp32" if name in exact else precision]
        q = (rounded(edited) - rounded(original)).double().flatten()
        norm = float(d.norm())
        kept = float(q.norm())
        cosine = float(d @ q) / (norm * kept) if kept else 0.0
        layers.append(
            LayerSurvival(name=name, cosine=cosine, noise_ratio=float((q - d).norm()) / norm)
        )
    layers.sort(key=lambda layer: layer.cosine)
    return Survival(precision=precision, layers=tuple(layers))


def _half(weight: Tensor) -> Tensor:
    return weight.half().float()


def _bfloat(weight: Tensor) -> Tensor:
    return weight.bfloat16().float()


def _int8(weight: Tensor) -> Tensor:
    """Only matrices are quantised, as ``int8.quantize_engine`` does it."""
    if weight.ndim != 2:
        return weight
    q, scale = int8_weights(weight.cpu().numpy())
    return torch.from_numpy(np.ascontiguousarray((q * scale).T))


def _int8_weights(weight: Tensor) -> Tensor:
    """Matrices and kernels, one scale an output channel, as ``int8_weights`` stores them."""
    if not to_quantize(tuple(weight.shape)):
        return weight
    q, scale = int8_channels(weight.cpu().numpy())
    return torch.from_numpy(q * scale.reshape(-1, *[1] * (weight.ndim - 1)))


def round_int4(weight: Tensor) -> Tensor:
    """Symmetric int4 of matrices, one scale a group of 128 inputs, and back."""
    if weight.ndim != 2:
        return weight
    parts = [_levels(part, INT4_LEVELS) for part in weight.split(INT4_GROUP, dim=1)]
    return torch.cat(parts, dim=1)


def round_coarse(weight: Tensor) -> Tensor:
    """Three levels a row, and back: coarser than anyone would ship."""
    return _levels(weight, 1) if weight.ndim == 2 else weight


def _levels(weight: Tensor, levels: int) -> Tensor:
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / levels
    return (weight / scale).round().clamp(-levels, levels) * scale


ROUNDINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "fp32": lambda weight: weight,
    "fp16": _half,
    "bf16": _bfloat,
    "int8": _int8,
    "int8-weights": _int8_weights,
    "int4": round_int4,
    "coarse": round_coarse,
}
"""Q by precision. int4 and coarse are for measurement; no engine is written in them."""
