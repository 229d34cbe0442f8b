"""Inpainting (arXiv:2505.17013): the safe model fills the hole in the base's picture of a concept.

Done in latent space with a model that was not trained for it, as blended latent diffusion does
(Avrahami et al. 2022, arXiv:2206.02779; the idea of RePaint, arXiv:2201.09865, without its
resampling): after each step the known part is replaced by the base's latents, noised to the step's
level with the noise that the fill began from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.attack.base import Attack
from safediff.attack.steps import start_guidance
from safediff.sample.own_noise import use_own_noise
from safediff.sample.sampler import Draw, Sampling, denoise_all, initial_latents
from safediff.sample.steps import run_steps


@dataclass(frozen=True, kw_only=True)
class Inpainting(Attack):
    """The hole is the middle quarter; both models are asked the direct prompt."""

    def latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """See ``Attack``."""
        safe = self.models.safe
        prompts = [draw.prompt for draw in draws]
        known = self.base_latents(draws, sampling)
        guidance = start_guidance(safe, prompts, sampling, self.models.guard)
        scheduler = safe.new_scheduler()
        scheduler.set_timesteps(sampling.num_steps)
        # other noise than the base's, which alone would lead the model to the same picture
        noise = initial_latents(draws, safe.latent_shape, sampling.seed + 1).to(known)
        use_own_noise(scheduler, noise)
        hole = middle(known)
        following = scheduler.timesteps[1:]

        def put_back(step: int, z: Tensor) -> Tensor:
            if step == len(following):
                return torch.where(hole, z, known)
            noised: Tensor = scheduler.add_noise(known, noise, following[step : step + 1])
            return torch.where(hole, z, noised)

        z = noise * scheduler.init_noise_sigma
        return run_steps(safe, guidance, scheduler, scheduler.timesteps, z, put_back)

    def base_latents(self, draws: Sequence[Draw], sampling: Sampling) -> Tensor:
        """Final latents (n, c, h, w) of the base model's pictures."""
        base = self.models.base
        c = base.encode([draw.prompt for draw in draws])
        c_0 = base.null().repeat(len(draws))
        return denoise_all(base, draws, c_0, c, sampling)


def middle(z: Tensor) -> Tensor:
    """True in the middle half of height and width, (h, w)."""
    height, width = z.shape[-2:]
    hole = torch.zeros(height, width, dtype=torch.bool, device=z.device)
    hole[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return hole
