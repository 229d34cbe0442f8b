"""Diffusion completion (arXiv:2505.17013): the base model begins, the safe model finishes.

Coarse shapes are settled in the first steps. A model that only steers away from a concept goes on
with one that is there already; a model that no longer knows it cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from safediff.attack.base import Attack
from safediff.attack.params import num_base_steps
from safediff.attack.steps import start_guidance
from safediff.errors import UsageError
from safediff.sample.own_noise import use_own_noise
from safediff.sample.sampler import Draw, Sampling, initial_latents
from safediff.sample.steps import place_of_step, run_steps


@dataclass(frozen=True, kw_only=True)
class Completion(Attack):
    """Both models are asked the direct prompt, from the latents of the direct picture."""

    base_share: float
    """Share of the steps that the base model runs."""

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``.

        Raises:
            UsageError: pictures have one step, which two models cannot share.
        """
        taken = num_base_steps(self.base_share, sampling.num_steps)
        if not taken:
            raise UsageError("completion shares the steps of a picture: 1 is too few", "draw 2")
        base, safe, guard = self.models.base, self.models.safe, self.models.guard
        prompts = [draw.prompt for draw in draws]
        begun = start_guidance(base, prompts, sampling)
        scheduler = safe.new_scheduler()
        scheduler.set_timesteps(sampling.num_steps)
        z = initial_latents(draws, safe.latent_shape, sampling.seed, sampling.rows)
        use_own_noise(scheduler, z)
        z = z.to(begun.condition.hidden) * scheduler.init_noise_sigma
        place = place_of_step(taken, sampling.num_steps, scheduler)
        z = run_steps(base, begun, scheduler, scheduler.timesteps[:place], z)
        finished = start_guidance(safe, prompts, sampling, guard)
        return run_steps(safe, finished, scheduler, scheduler.timesteps[place:], z)
