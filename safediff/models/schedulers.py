"""Schedulers by the names that a policy gives, with the noise schedule of the model's own."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler

from safediff.errors import UsageError
from safediff.policy.plan import SchedulerName

_CLASSES: Mapping[SchedulerName, Any] = {
    "ddim": DDIMScheduler,
    "dpm-solver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
}
_OF_TRAINING = frozenset(
    {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
    }
)
"""Settings that belong to a model; all others say how it is drawn."""
_NOISE_OF_A_BATCH = frozenset({"DPMSolverSDEScheduler"})
"""They add noise from one source for all pictures of a batch, so a picture has no seed of its own
(all others either add none or take a generator for each picture: ``use_own_noise``)."""


def scheduler_like(name: SchedulerName, own: Any) -> Any:
    """The named scheduler for a model whose own is ``own``; ``model``: that itself.

    Raises:
        UsageError: the model's own steps have no noise schedule that the named one could take over,
            or draw pictures that depend on their batch.
    """
    if name == "model":
        if type(own).__name__ in _NOISE_OF_A_BATCH:
            raise UsageError(
                f"the model's scheduler, {type(own).__name__}, draws the noise of a whole batch at "
                "once: a picture would depend on those beside it",
                "name another one: model.scheduler: dpm-solver++",
            )
        return own
    if not hasattr(own, "alphas_cumprod"):
        raise UsageError(
            f"the model's steps are those of {type(own).__name__}, which {name!r} cannot stand for",
            "leave out model.scheduler, set erase.options.rollout_scheduler: model; if its steps "
            "are not those of flow matching, set erase.options.loss_timestep: step, too",
        )
    # latents are not pictures: nothing is clipped to [-1, 1], which some classes do by default
    cls = _CLASSES[name]
    clips = "clip_sample" in inspect.signature(cls.__init__).parameters
    return cls.from_config(own.config, **({"clip_sample": False} if clips else {}))


def steps_like(steps: Any, own: Any) -> Any:
    """A scheduler of the class and settings of ``steps`` for a model whose own is ``own``.

    What that one was trained with, its noise schedule and what it predicts, stays its own.
    """
    drawn = {name: value for name, value in settings(steps).items() if name not in _OF_TRAINING}
    trained = {name: value for name, value in own.config.items() if name in _OF_TRAINING}
    return type(steps).from_config({**drawn, **trained})


def differing_steps(steps: Any, other: Any) -> tuple[str, str] | None:
    """How two models are drawn, in words, where that is not alike; their training may differ."""
    if type(steps) is not type(other):
        return type(steps).__name__, type(other).__name__
    read = (settings(steps).keys() | settings(other).keys()) - _OF_TRAINING
    names = sorted(name for name in read if steps.config[name] != other.config[name])
    return (_said(steps, names), _said(other, names)) if names else None


def _said(steps: Any, names: Sequence[str]) -> str:
    values = ", ".join(f"{name} {steps.config[name]!r}" for name in names)
    return f"{type(steps).__name__} ({values})"


def name_of(steps: Any) -> SchedulerName | None:
    """What a policy calls such a scheduler, if it can."""
    found = [name for name, cls in _CLASSES.items() if type(steps) is cls]
    return found[0] if found else None


def settings(part: Any) -> dict[str, Any]:
    """What a class of diffusers reads of its configuration, where that is not its default."""
    known = inspect.signature(type(part).__init__).parameters
    return {
        name: value
        for name, value in part.config.items()
        if name in known and value != known[name].default
    }


def max_num_steps(own: Any) -> int:
    """Most steps that a scheduler takes; LCM and TCD choose theirs among those they learned from.

    Another class may hold their setting in its configuration, too, and does not read it.
    """
    config = own.config
    if isinstance(own, LCMScheduler | TCDScheduler):
        return int(min(config.original_inference_steps, config.num_train_timesteps))
    return int(config.num_train_timesteps)
