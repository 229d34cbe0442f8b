"""Null-prompt drift: how far the answer to the empty prompt moved, measured without pictures."""

import torch

from safediff.models.backbone import Backbone, denoise_in_parts
from safediff.sample.own_noise import use_own_noise
from safediff.sample.steps import both_places

NUM_LATENTS = 16
NUM_STEPS = 10


@torch.no_grad()
def null_drift(
    base: Backbone, safe: Backbone, seed: int = 0, num_rows: int = NUM_LATENTS
) -> list[tuple[int, float]]:
    """|eps_safe(z_t, t, c_0) - eps_base(z_t, t, c_0)| / |eps_base| along the base's own path.

    Each computes in its own type, at most ``num_rows`` rows at a time; the norms are taken in
    float32.

    Returns:
        (t, drift) for each of 10 steps, unguided, over 16 trajectories from seeded latents.
    """
    scheduler = base.new_scheduler()
    c_0 = base.null().repeat(NUM_LATENTS)
    scheduler.set_timesteps(NUM_STEPS)
    own_c_0 = c_0.to(str(c_0.hidden.device), safe.denoiser.dtype)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(NUM_LATENTS, *base.latent_shape, generator=generator)
    use_own_noise(scheduler, z)
    z = z.to(c_0.hidden.device, c_0.hidden.dtype) * scheduler.init_noise_sigma
    path = []
    for t, t_there in both_places(scheduler.timesteps, z):
        z_in = scheduler.scale_model_input(z, t)
        e_base = denoise_in_parts(base, z_in, t_there, c_0, num_rows)
        own_z = z_in.to(own_c_0.hidden)
        e_safe = denoise_in_parts(safe, own_z, t_there, own_c_0, num_rows).to(e_base)
        answers = ((base, e_base), (safe, e_safe))
        eps_base, eps_safe = (m.compared(e, z_in, t_there).float() for m, e in answers)
        path.append((int(t), float((eps_safe - eps_base).norm() / eps_base.norm())))
        z = scheduler.step(e_base, t, z, return_dict=False)[0]
    return path
