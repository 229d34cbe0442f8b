"""Which linear layers int8 may have: what each of them costs on calibration inputs, and a choice.

Symbols: e_q, e_safe, e_base predictions (noise) of the quantised, the erased and the base UNet for
the same latents z, timestep t and condition c. Two numbers are limited: the relative error
||e_q - e_safe|| / ||e_safe|| of every group of prompts at every timestep, and on erased prompts the
margin ratio ||e_q - e_safe|| / ||e_base - e_safe||.

Errors of layers are nearly independent, so their squares add; the sum says which layers to leave
out, and what is left is measured, not summed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safediff.export.fake_int8 import in_int8, linear_layers
from safediff.export.parity import MAX_MARGIN_RATIO, Denoise
from safediff.models.backbone import Backbone, Condition, guided

EXACT = ("cpu", torch.float32)
NUM_STEPS = 10
"""Of the rollouts."""
EVERY = 3
"""Every third step is calibrated on, from the first one to the last."""


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Latents as a sampler meets them, and what they are denoised with."""

    points: tuple[tuple[Tensor, Tensor], ...]
    """t () and the denoiser's latents z (b, c, h, w) at every step that is looked at."""
    condition: Condition
    """One row a latent."""
    groups: Mapping[str, slice]
    """Rows of each group of prompts: erased, kept, empty; one without rows is absent."""


@torch.no_grad()
def collect(
    model: Backbone, texts: Mapping[str, Sequence[str]], guidance_scale: float, seed: int = 0
) -> CalibrationSet:
    """Draw with the erased model from seeded latents, and keep the latents of some steps.

    ``model`` and those of ``Ruler`` denoise in fp32 on the CPU (``references``).
    """
    groups, start = {}, 0
    for group, chosen in texts.items():
        if chosen:
            groups[group] = slice(start, start + len(chosen))
            start += len(chosen)
    c = model.encode([text for chosen in texts.values() for text in chosen]).to(*EXACT)
    c_0 = model.encode([""]).to(*EXACT).repeat(start)
    scheduler = model.new_scheduler()
    scheduler.set_timesteps(NUM_STEPS)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(start, *model.latent_shape, generator=generator) * scheduler.init_noise_sigma
    points = []
    for index, t in enumerate(scheduler.timesteps):
        z_in = scheduler.scale_model_input(z, t)
        if index % EVERY == 0:
            points.append((t, z_in))
        e = guided(model, z_in, t, c_0, c, guidance_scale)
        z = scheduler.step(e, t, z, return_dict=False)[0]
    return CalibrationSet(points=tuple(points), condition=c, groups=groups)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How far a quantised UNet is from the erased one."""

    errors: Mapping[tuple[str, int], float]
    """Relative error by group and timestep."""
    margin_ratio: float | None
    """None where there is no base, or no erased prompt."""

    def worst(self, group: str) -> float:
        """The largest error of a group at any timestep; 0 for a group that was not measured."""
        return max((e for (name, _), e in self.errors.items() if name == group), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """The largest error of every group, and the margin ratio, in four digits."""
        groups = dict.fromkeys(group for group, _ in self.errors)
        margin = self.margin_ratio
        return {
            "relative_error": {group: float(f"{self.worst(group):.4g}") for group in groups},
            "margin_ratio": None if margin is None else float(f"{margin:.4g}"),
        }

    @property
    def largest(self) -> float:
        """The largest relative error of all."""
        return max(self.errors.values())

    def ratios(self, max_error: float) -> NDArray[np.float64]:
        """Every number in units of its limit; none above 1 is what is wanted."""
        values = [error / max_error for error in self.errors.values()]
        if self.margin_ratio is not None:
            values.append(self.margin_ratio / MAX_MARGIN_RATIO)
        found: NDArray[np.float64] = np.nan_to_num(np.array(values), nan=np.inf)
        return found


class Ruler:
    """Measures quantised UNets on one calibration set; the references are computed once."""

    def __init__(self, inputs: CalibrationSet, safe: Backbone, base: Backbone | None) -> None:
        self.inputs, self.safe = inputs, safe
        self._safe = self._predictions(safe.denoise)
        erased = inputs.groups.get("erased")
        self._margin = None
        if base is not None and erased is not None:
            both = zip(self._predictions(base.denoise), self._safe, strict=True)
            squares = (float((e - e_safe)[erased].square().sum()) for e, e_safe in both)
            self._margin = sum(squares) ** 0.5 or None

    def read(self, denoise: Denoise) -> Reading:
        """Compare a UNet with the erased one."""
        errors, drift = {}, 0.0
        found = zip(self.inputs.points, self._predictions(denoise), self._safe, strict=True)
        for (t, _), e_q, e_safe in found:
            for group, rows in self.inputs.groups.items():
                distance = float((e_q - e_safe)[rows].norm())
                errors[group, int(t)] = distance / float(e_safe[rows].norm())
                drift += distance**2 if group == "erased" else 0.0
        margin = None if self._margin is None else drift**0.5 / self._margin
        return Reading(errors=errors, margin_ratio=margin)

    @torch.no_grad()
    def _predictions(self, denoise: Denoise) -> list[Tensor]:
        c = self.inputs.condition
        return [self.safe.compared(denoise(z, t, c), z, t).double() for t, z in self.inputs.points]


def read_layers(ruler: Ruler) -> dict[str, Reading]:
    """What each linear layer alone costs in int8, by the name of its weight.

    One call of the UNet a layer and timestep; its weights are changed and put back.
    """
    layers = linear_layers(ruler.safe.denoiser)
    found = {}
    for name, layer in layers.items():
        with in_int8([layer]):
            found[name] = ruler.read(ruler.safe.denoise)
    return found


def choose(
    readings: Mapping[str, Reading], sizes: Mapping[str, int], max_error: float, budget: float
) -> list[str]:
    """Layers to leave in fp32, most harmful first.

    Each time the limit that is exceeded most decides: the layer goes that costs most of it per
    weight, until the squares of what is left add up to ``budget`` of every limit at most.
    """
    costs = {name: reading.ratios(max_error) ** 2 for name, reading in readings.items()}
    kept: list[str] = []
    while costs:
        total = np.sum(list(costs.values()), axis=0)
        worst = int(total.argmax())
        if total[worst] <= budget:
            break
        harm = {name: cost[worst] / sizes[name] for name, cost in costs.items()}
        kept.append(max(harm, key=lambda name: harm[name]))
        del costs[kept[-1]]
    return kept


def settle(
    readings: Mapping[str, Reading],
    sizes: Mapping[str, int],
    max_error: float,
    measure: Callable[[list[str]], Reading],
    num_rounds: int = 5,
) -> tuple[list[str], Reading]:
    """The first choice whose engine keeps every limit.

    Args:
        readings: Of every layer alone.
        sizes: Weights of every layer.
        max_error: The limit of the relative error.
        measure: Builds and measures the engine that leaves these layers in fp32.
        num_rounds: Choices to try, each smaller by what the last one exceeded; then all layers.

    Returns:
        Layers to leave in fp32, and the engine's reading. All layers where nothing else keeps it.
    """
    budget = 1.0
    for _ in range(num_rounds):
        kept = choose(readings, sizes, max_error, budget)
        if len(kept) == len(readings):
            break
        reading = measure(kept)
        worst = float(reading.ratios(max_error).max())
        if worst <= 1:
            return kept, reading
        budget *= 0.95 / worst**2 if np.isfinite(worst) else 0.0
    nothing = dict.fromkeys(next(iter(readings.values())).errors, 0.0)
    return list(readings), Reading(errors=nothing, margin_ratio=None)
