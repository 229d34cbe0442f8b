"""Schedulers that add noise on the way (LCM, Euler ancestral, TCD) draw it picture by picture."""

import hashlib
import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor


def use_own_noise(scheduler: Any, latents: Tensor) -> None:
    """From now on, steps of this scheduler draw each picture's noise from a generator of its own.

    The generator follows from the picture's initial latents, so a picture is the same in any batch.
    Schedulers that add no noise stay as they are.

    Args:
        scheduler: For one batch of trajectories; it is changed.
        latents: Their initial latents (b, c, h, w).
    """
    if "generator" in inspect.signature(scheduler.step).parameters:
        scheduler.step = partial(scheduler.step, generator=noise_sources(latents))


def noise_sources(latents: Tensor) -> list[torch.Generator]:
    """One generator on the CPU for each row of the initial latents."""
    rows = latents.detach().float().cpu().contiguous()
    seeds = [hashlib.sha256(row.numpy().tobytes()).digest()[:8] for row in rows]
    return [torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1) for seed in seeds]
