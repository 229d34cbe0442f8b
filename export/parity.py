"""How far an engine's noise predictions are from PyTorch's, timestep by timestep.

Symbols: e_ref, e_exp, e_safe, e_base noise predictions of the reference, the engine, the safe UNet
and the base UNet for the same latents z, timestep t and condition c.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from safediff.errors import Inconclusive
from safediff.export.engine_files import Precision
from safediff.models.backbone import Condition

TIMESTEPS = (981, 741, 501, 261, 21)
MAX_MARGIN_RATIO = 0.25
"""An engine further from the safe UNet than this part of its way from the base is no copy of it."""

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""eps(z, t, c), for example ``Backbone.denoise``."""


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """What a precision may cost; differences in units of the reference's standard deviation."""

    max_abs: float
    mean_abs: float
    min_cosine: float


LIMITS: Mapping[Precision, ParityLimits] = {
    "fp32": ParityLimits(max_abs=1e-3, mean_abs=1e-4, min_cosine=0.99999),
    "fp16": ParityLimits(max_abs=5e-2, mean_abs=5e-3, min_cosine=0.9995),
    "bf16": ParityLimits(max_abs=2e-1, mean_abs=3e-2, min_cosine=0.998),
    "int8-weights": ParityLimits(max_abs=0.5, mean_abs=0.05, min_cosine=0.999),
    "int8": ParityLimits(max_abs=5.0, mean_abs=0.5, min_cosine=0.99),
}
"""For int8 the cosine and the margin ratio decide; its differences are reported."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far what an engine computes, e_exp, is from the reference's e_ref."""

    max_abs: float
    """max |e_exp - e_ref| / std(e_ref); infinite where a value is not finite."""
    mean_abs: float
    """mean |e_exp - e_ref| / std(e_ref)."""
    cosine: float
    """Cosine of the angle between e_exp and e_ref, the batch as one vector."""

    def within(self, limits: ParityLimits) -> bool:
        """Whether all three numbers keep their limits."""
        return (
            self.max_abs <= limits.max_abs
            and self.mean_abs <= limits.mean_abs
            and self.cosine >= limits.min_cosine
        )


@dataclass(frozen=True, kw_only=True)
class TimestepParity(Difference):
    """The comparison at one timestep."""

    timestep: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The comparison at all timesteps."""

    precision: Precision
    num_samples: int
    """Latents compared at each timestep."""
    side: int
    """Width of those latents."""
    timesteps: tuple[TimestepParity, ...]
    limits: ParityLimits
    margin_ratio: float | None
    """||e_exp - e_safe|| / ||e_base - e_safe|| on erased prompts; None where not measured."""

    @property
    def passed(self) -> bool:
        """Whether every timestep, and the margin ratio if measured, keeps its limit."""
        close = all(parity.within(self.limits) for parity in self.timesteps)
        return close and (self.margin_ratio is None or self.margin_ratio <= MAX_MARGIN_RATIO)

    @property
    def worst_max_abs(self) -> float:
        """The largest ``max_abs`` of all timesteps."""
        return max(parity.max_abs for parity in self.timesteps)

    @property
    def engine_calls(self) -> int:
        """How often the engine was called: once a timestep, and once more for the margin ratio."""
        return len(self.timesteps) * (1 if self.margin_ratio is None else 2)

    def to_json(self) -> dict[str, Any]:
        """Plain data with ``passed``; numbers that are not finite become None."""
        more = {"passed": self.passed, "engine_calls": self.engine_calls}
        data: dict[str, Any] = asdict(self) | more
        data["timesteps"] = [finite_or_none(row) for row in data["timesteps"]]
        return data


@torch.no_grad()
def measure_parity(
    engine: Denoise,
    reference: Denoise,
    latents: Tensor,
    condition: Condition,
    *,
    precision: Precision,
    margin_ratio: float | None = None,
    timesteps: tuple[int, ...] = TIMESTEPS,
) -> Parity:
    """Compare an engine with PyTorch on the same inputs.

    Args:
        engine: The exported denoiser.
        reference: The denoiser it was exported from, in fp32 whatever the engine's precision.
        latents: z (b, c, h, w).
        condition: One row a latent; real prompts, erased ones and the empty one among them.
        precision: The engine's; chooses the limits.
        margin_ratio: From ``measure_margin_ratio`` at the same timesteps.
        timesteps: At least one.
    """
    found = []
    for t in timesteps:
        step = torch.tensor(t)
        e_ref = reference(latents, step, condition).double()
        e_exp = engine(latents, step, condition).double()
        found.append(TimestepParity(timestep=t, **asdict(difference(e_exp, e_ref))))
    return Parity(
        precision=precision,
        num_samples=len(latents),
        side=latents.shape[-1],
        timesteps=tuple(found),
        limits=LIMITS[precision],
        margin_ratio=margin_ratio,
    )


@torch.no_grad()
def measure_margin_ratio(
    engine: Denoise,
    safe: Denoise,
    base: Denoise,
    latents: Tensor,
    condition: Condition,
    *,
    timesteps: tuple[int, ...] = TIMESTEPS,
) -> float:
    """||e_exp - e_safe|| / ||e_base - e_safe||, all timesteps as one vector.

    0: the engine is the safe UNet; 1: it is as far from it as the base. ``condition`` holds erased
    prompts: elsewhere base and safe should agree.

    Raises:
        Inconclusive: base and safe UNet do not differ on these prompts.
    """
    drift, margin = 0.0, 0.0
    for t in timesteps:
        step = torch.tensor(t)
        e_safe = safe(latents, step, condition).double()
        drift += float((engine(latents, step, condition).double() - e_safe).square().sum())
        margin += float((base(latents, step, condition).double() - e_safe).square().sum())
    if margin == 0:
        raise Inconclusive(
            "base and safe model predict the same noise on the erased prompts: nothing was erased "
            "that an engine could lose",
            "check that the patch belongs to this policy",
        )
    ratio: float = (drift / margin) ** 0.5
    return ratio if isfinite(ratio) else inf


def difference(e_exp: Tensor, e_ref: Tensor) -> Difference:
    """Of two float64 tensors of one shape."""
    if not (e_exp.isfinite().all() and e_ref.isfinite().all()):
        return Difference(max_abs=inf, mean_abs=inf, cosine=-1.0)
    apart = (e_exp - e_ref).abs() / e_ref.std()
    return Difference(
        max_abs=float(apart.max()),
        mean_abs=float(apart.mean()),
        cosine=float(cosine_similarity(e_exp.reshape(-1), e_ref.reshape(-1), dim=0)),
    )


def finite_or_none(row: Mapping[str, Any]) -> dict[str, Any]:
    """For JSON, which has no infinity."""
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}
