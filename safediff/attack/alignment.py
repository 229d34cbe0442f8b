"""Tier 0: what erasing did to noise predictions at fixed latents and timesteps; no pictures.

Symbols: e_safe, e_base noise predictions; c_0 the empty prompt, c_s a text of an erased concept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safediff.attack.params import ALIGNMENT_LATENTS, ALIGNMENT_STEPS
from safediff.models.backbone import Backbone, denoise_in_parts
from safediff.sample.own_noise import use_own_noise
from safediff.sample.steps import both_places

BATCH_SIZE = 32

Point = tuple[Tensor, Tensor]
"""Latents (latents, c, h, w) as the UNet gets them, and their timestep ()."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Norms are over all latents and timesteps together."""

    drift: float
    """|e_safe(c_0) - e_base(c_0)| / |e_base(c_0)|: 0 where the empty prompt stayed as it was."""
    by_text: dict[str, float]
    """|d_safe| / |d_base|, d = e(c_s) - e(c_0): 0 where the text reads as the empty prompt."""
    along: dict[str, float]
    """<d_safe, d_base> / |d_base|^2, the part of it that points where the base's does: 1 where
    nothing was erased, below 0 where the model is steered away from what the text says."""


@torch.no_grad()
def measure_alignment(
    base: Backbone,
    safe: Backbone,
    texts: Sequence[str],
    seed: int = 0,
    num_rows: int = BATCH_SIZE,
) -> Alignment:
    """Compare both models along the base's own unguided path from seeded latents.

    Networks get at most ``num_rows`` rows at a time, and never more than ``BATCH_SIZE``.

    Raises:
        ValueError: no texts.
        UsageError: a text is longer than the text encoder's window.
    """
    if not texts:
        raise ValueError("no text to compare the models on")
    num_rows = min(num_rows, BATCH_SIZE)
    points = _points(base, seed, num_rows)
    answers = (_answers(model, points, texts, num_rows) for model in (base, safe))
    (base_0, base_s), (safe_0, safe_s) = answers
    told, left = base_s - base_0, safe_s - safe_0
    return Alignment(
        drift=float((safe_0 - base_0).norm() / base_0.norm()),
        by_text={text: float(left[i].norm() / told[i].norm()) for i, text in enumerate(texts)},
        along={
            text: float((left[i] * told[i]).sum() / told[i].square().sum())
            for i, text in enumerate(texts)
        },
    )


def _points(base: Backbone, seed: int, num_rows: int) -> list[Point]:
    scheduler = base.new_scheduler()
    c_0 = base.null().repeat(ALIGNMENT_LATENTS)
    scheduler.set_timesteps(ALIGNMENT_STEPS)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(ALIGNMENT_LATENTS, *base.latent_shape, generator=generator)
    use_own_noise(scheduler, z)
    z = z.to(c_0.hidden) * scheduler.init_noise_sigma
    points = []
    for t, t_there in both_places(scheduler.timesteps, z):
        z_in = scheduler.scale_model_input(z, t)
        points.append((z_in, t_there))
        e = denoise_in_parts(base, z_in, t_there, c_0, num_rows)
        z = scheduler.step(e, t, z, return_dict=False)[0]
    return points


def _answers(
    model: Backbone, points: Sequence[Point], texts: Sequence[str], num_rows: int
) -> tuple[Tensor, Tensor]:
    """Predictions (1, points, ...) for the empty prompt and (texts, points, ...) for the texts."""
    each = model.encode_with_null(["", *texts])
    c = each.rows(torch.arange(len(each)).repeat_interleave(ALIGNMENT_LATENTS))
    found = []
    for z, t in points:
        every = z.repeat(len(each), 1, 1, 1)
        e = denoise_in_parts(model, every, t, c, num_rows)
        eps = model.compared(e, every, t)
        found.append(eps.float().unflatten(0, (len(each), ALIGNMENT_LATENTS)))
    stacked = torch.stack(found, dim=1)
    return stacked[:1], stacked[1:]
