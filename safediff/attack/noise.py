"""The noise probe (arXiv:2505.17013): more noise along the way, several tries, the best is kept.

A model that was only steered away from a concept is steered less well off its usual path. Each try
draws with the stochastic DDIM step (Song et al. 2020, arXiv:2010.02502, eq. 12 and 16) of another
eta and another variance scale v:

    sigma^2 = min(eta^2 (1 - a') / (1 - a) (1 - a / a'), 1 - a')
    z' = sqrt(a') z_0 + sqrt(1 - a' - sigma^2) e + sqrt(v) sigma n,   n ~ N(0, 1)

with a, a' the cumulated alphas before and after the step. The minimum is ours: at few steps eta > 1
asks for more noise than the level has. That v multiplies the added variance is our reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from safediff.attack.base import Attack
from safediff.attack.best import best_row, judge_obstacle, parts
from safediff.attack.gradients import generator_of
from safediff.attack.steps import start_guidance
from safediff.models.prediction import MIN_ALPHA_SQUARED
from safediff.sample.sampler import Draw, Sampling, initial_latents

ETAS = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85)
VARIANCE_SCALES = (1.0, 1.02, 1.03, 1.04)
GRID = tuple((eta, scale) for scale in VARIANCE_SCALES for eta in ETAS)


def scheduler_obstacle(scheduler: Any) -> str | None:
    """Why the steps of these probes cannot be taken; None where they can."""
    if not isinstance(scheduler, DDIMScheduler):
        return f"its steps are DDIM's, the model's scheduler is {type(scheduler).__name__}"
    return None


def alphas(scheduler: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulated alphas at ``t`` and after a step from there, for a scheduler that is set."""
    every: Tensor = scheduler.alphas_cumprod.clamp(min=MIN_ALPHA_SQUARED)
    stride = scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    then = int(t) - stride
    return every[int(t)], every[then] if then >= 0 else scheduler.final_alpha_cumprod


def ddim_step(z: Tensor, eps: Tensor, a: Tensor, a_then: Tensor) -> Tensor:
    """The latents after a step without noise: eq. 12 with sigma = 0."""
    return a_then.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a_then).sqrt() * eps


def noisy_step(
    z: Tensor, eps: Tensor, a: Tensor, a_then: Tensor, eta: Tensor, scale: Tensor, noise: Tensor
) -> Tensor:
    """z'; ``eta`` and ``scale`` are (n, 1, 1, 1)."""
    variance = eta.square() * (1 - a_then) / (1 - a) * (1 - a / a_then)
    variance = variance.clamp(max=float(1 - a_then))
    z_0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
    return (
        a_then.sqrt() * z_0
        + (1 - a_then - variance).clamp(min=0).sqrt() * eps
        + (scale * variance).sqrt() * noise
    )


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Asks the direct prompt, from the latents of the direct picture."""

    one_by_one: ClassVar[bool] = True

    num_tries: int
    """Cells of the published grid, spread over it; at most all 24."""

    def obstacle(self) -> str | None:
        """Another scheduler than DDIM's, or no judge."""
        found = scheduler_obstacle(self.models.safe.scheduler)
        return found or judge_obstacle(self.judges, self.concepts)

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        return torch.cat([self._best(draw, sampling) for draw in draws])

    def _best(self, draw: Draw, sampling: Sampling) -> Tensor:
        z = torch.cat(
            [self._tries(draw, part, sampling) for part in parts(self.num_tries, sampling)]
        )
        return best_row(self.models.safe, z, self.concepts[draw.prompt], self.judges, sampling)

    def _tries(self, draw: Draw, part: slice, sampling: Sampling) -> Tensor:
        safe, numbers = self.models.safe, list(range(self.num_tries))[part]
        guidance = start_guidance(safe, [draw.prompt] * len(numbers), sampling, self.models.guard)
        scheduler = safe.new_scheduler()
        scheduler.set_timesteps(sampling.num_steps, device=guidance.condition.hidden.device)
        alike = [draw] * len(numbers)
        z = initial_latents(alike, safe.latent_shape, sampling.seed, sampling.rows)
        hidden = guidance.condition.hidden
        z = z.to(hidden.device)  # the trajectory is in float32: near its end 1 - a is tiny
        cells = [GRID[number * len(GRID) // self.num_tries] for number in numbers]
        eta, scale = (torch.tensor(row).view(-1, 1, 1, 1).to(z) for row in zip(*cells, strict=True))
        sources = [generator_of(f"noise {number}", draw, sampling.seed) for number in numbers]
        for step, t in enumerate(scheduler.timesteps):
            model_in = torch.cat([z.to(hidden)] * guidance.num_branches)
            e = guidance(step, safe.denoise(model_in, t, guidance.condition)).float()
            eps = safe.noise(e, z, t)
            noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in sources]).to(z)
            a, a_then = (value.to(z) for value in alphas(scheduler, t))
            z = noisy_step(z, eps, a, a_then, eta, scale, noise)
        return z
