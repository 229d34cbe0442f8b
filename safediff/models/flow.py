"""Flow matching: the Euler steps of SD3 and FLUX, with what is asked of every scheduler.

Symbols: z = (1 - sigma) x + sigma eps, t = 1000 sigma, the network answers v = eps - x
(Esser et al. 2024, arXiv:2403.03206, section 2).
"""

from typing import Any, Self

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from safediff.errors import UsageError


class FlowSteps(FlowMatchEulerDiscreteScheduler):
    """diffusers' scheduler; shifts its levels as the family's pipeline has it done."""

    init_noise_sigma = 1.0
    num_patches: int
    """Picture tokens that the network sees; dynamic shifting depends on it."""
    evenly: bool
    """Levels are spread over [1/N, 1] before they are shifted (FLUX), not over [0, 1] (SD3)."""
    default_max_shift: float

    @classmethod
    def of(
        cls, scheduler: Any, num_patches: int, *, evenly: bool = False, max_shift: float = 1.15
    ) -> Self:
        """A new one like ``scheduler``, at the beginning of a trajectory."""
        new: Any = cls.from_config(scheduler.config)
        steps: Self = new
        steps.set_shift(scheduler.shift)
        steps.num_patches, steps.evenly, steps.default_max_shift = num_patches, evenly, max_shift
        return steps

    def set_timesteps(  # type: ignore[override]
        self, num_inference_steps: int, device: str | torch.device = "cpu"
    ) -> None:
        """N levels, the noisiest first; ``sigmas`` has a 0 behind them."""
        config: Any = self.config
        options: dict[str, Any] = {}
        if self.evenly:
            options["sigmas"] = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        if config.use_dynamic_shifting:
            options["mu"] = self.shift_exponent()
        super().set_timesteps(num_inference_steps, device=device, **options)

    def shift_exponent(self) -> float:
        """The mu of dynamic shifting: linear in the number of picture tokens."""
        config: Any = self.config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low = config.get("base_shift", 0.5)
        high = config.get("max_shift", self.default_max_shift)
        return float(low + (high - low) * (self.num_patches - few) / (many - few))

    def draw_timestep(self, u: int, count: int, generator: torch.Generator) -> Tensor:
        """T uniform between the level that u steps lead to and the next one's, (count,) on the CPU.

        The levels are shifted and t is continuous, so this is a bin of its own width for each u.
        """
        high, low = (1000 * self.sigmas[k].cpu() for k in (u, u + 1))
        t: Tensor = low + (high - low) * torch.rand(count, generator=generator)
        return t

    def scale_model_input(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """The network reads z itself."""
        return z

    def add_noise(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Z at any t (b,), also between the levels."""
        config: Any = self.config
        exact = torch.promote_types(x.dtype, torch.float32)  # bfloat16 has no level 997
        sigma = t.to(x.device, exact) / config.num_train_timesteps
        sigma = sigma.view(-1, *(1,) * (x.ndim - 1))
        z: Tensor = ((1 - sigma) * x + sigma * eps).to(x.dtype)
        return z


def require_flow_steps(name: str, scheduler: Any) -> None:
    """Refuse a pipeline whose steps are other ones.

    Raises:
        UsageError: they are not the plain Euler steps of flow matching.
    """
    found = type(scheduler).__name__
    config = scheduler.config
    other = [key for key in ("stochastic_sampling", "invert_sigmas") if config.get(key)]
    if found != FlowMatchEulerDiscreteScheduler.__name__ or other:
        raise UsageError(
            f"{name}: its scheduler is {found}{' with ' + other[0] if other else ''}; supported is "
            "FlowMatchEulerDiscreteScheduler without randomness",
            "change scheduler/scheduler_config.json of the model",
        )
