"""What a denoiser predicts, and how that relates to noise.

Symbols: x clean latents, eps noise, z = alpha x + sigma eps what the denoiser gets, e its answer.

    epsilon         e = eps                                 alpha^2 + sigma^2 = 1
    v_prediction    e = alpha eps - sigma x                 alpha^2 + sigma^2 = 1
    flow            e = eps - x                             alpha + sigma = 1

v_prediction: Salimans and Ho 2022, arXiv:2202.00512, appendix D. flow: Liu et al. 2022,
arXiv:2209.03003, with time running from the picture to the noise as in diffusers.

At one z all three are affine in each other. So guidance, and any target that is a mixture of
answers whose weights add up to 1, mean the same picture in each of them; squared differences of
answers differ by a factor that depends on t alone.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from safediff.errors import UsageError

Prediction = Literal["epsilon", "v_prediction", "flow"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
MIN_ALPHA_SQUARED = 2.0**-24
"""Schedules with a last step of pure noise have 0; diffusers' Euler takes this instead."""


def levels(scheduler: Any, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at timesteps ``t``, () or (b,), shaped to go with ``like`` (b, ...).

    Between two timesteps of the training, which Euler's may lie, sigma / alpha is interpolated.

    Raises:
        UsageError: the scheduler's timesteps say nothing of them.
    """
    t = torch.as_tensor(t).to(like.device)
    if hasattr(scheduler, "alphas_cumprod"):
        a = scheduler.alphas_cumprod.to(like.device, torch.float64).clamp(min=MIN_ALPHA_SQUARED)
        ratios = ((1 - a) / a).sqrt()
        low = t.double().floor().long().clamp(0, len(ratios) - 1)
        high = (low + 1).clamp(max=len(ratios) - 1)
        ratio = torch.lerp(ratios[low], ratios[high], t.double() - low)
        alpha = (1 + ratio.square()).rsqrt()
        sigma = ratio * alpha
    elif not has_levels(scheduler):
        raise UsageError(
            f"the timesteps of {type(scheduler).__name__} (EDM) do not say what share of a latent "
            "is noise, so neither drift nor attacks can be measured on this model",
            "leave out verify.attacks and verify.quality.null_drift",
        )
    else:  # flow matching
        sigma = t.double() / scheduler.config.num_train_timesteps
        alpha = 1 - sigma
    shape = (-1, *(1,) * (like.ndim - 1))
    return alpha.reshape(shape).to(like.dtype), sigma.reshape(shape).to(like.dtype)


def has_levels(scheduler: Any) -> bool:
    """Whether ``levels`` knows those of a scheduler; EDM's weight latents in a way of their own."""
    return hasattr(scheduler, "alphas_cumprod") or "sigma_data" not in scheduler.config


def to_noise(kind: Prediction, e: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The eps that an answer stands for."""
    if kind == "epsilon":
        return e
    if kind == "v_prediction":
        return alpha * e + sigma * z
    return z + alpha * e


def target(kind: Prediction, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The right answer."""
    if kind == "epsilon":
        return eps
    return alpha * eps - sigma * x if kind == "v_prediction" else eps - x
