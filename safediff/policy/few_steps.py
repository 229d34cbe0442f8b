"""Models distilled for few steps: settings made for many are told before anything is drawn."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safediff.policy.desk import Desk
from safediff.policy.plan import ModelPlan

FEW = 12
"""More steps than such models are drawn with."""
LOW_GUIDANCE = 2.0
"""More guidance than they are drawn with; LCM takes up to 2."""
_CLASSES = ("LCMScheduler", "TCDScheduler")
_NAMES = {"lcm": "LCMScheduler", "tcd": "TCDScheduler"}
_TURBO = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
"""With trailing timesteps: SD Turbo, SDXL Turbo, SDXL Lightning. Models of many steps have them
too, where the last level is pure noise (``rescale_betas_zero_snr``)."""


def note_few_steps(desk: Desk, model: ModelPlan) -> None:
    """A note for each part of the policy that does not go with a model of few steps."""
    scheduler = _few_step_scheduler(model)
    if scheduler is None:
        return
    sampling, erase = desk.policy.verify.sampling, desk.policy.erase
    whose = f"the model's steps are those of {scheduler}, made for few steps and little guidance"
    if sampling.num_steps > FEW or sampling.guidance_scale > LOW_GUIDANCE:
        desk.notes.append(
            f"{whose}: verify.sampling has {sampling.num_steps} steps at guidance "
            f"{sampling.guidance_scale:g}"
        )
    if erase.method in ("sdd", "esd-x", "esd-u") and (
        erase.options.get("rollout_scheduler", "ddim") != "model"
        or erase.options.get("loss_timestep", "bin") != "step"
    ):
        desk.notes.append(
            f"{whose}: erase.options should say rollout_scheduler: model and loss_timestep: step"
        )


def _few_step_scheduler(model: ModelPlan) -> str | None:
    """The class of the model's steps where they are made for few; None: they are not, or unknown.

    Read from a folder's configuration, no weights; what cannot be read is told when it is loaded.
    """
    if model.scheduler != "model":
        return _NAMES.get(model.scheduler)
    path = Path(model.config or model.base) / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, Mapping):
        return None
    return _of(config)


def _of(config: Mapping[str, Any]) -> str | None:
    name = config.get("_class_name")
    if name in _CLASSES:
        return str(name)
    trailing = config.get("timestep_spacing") == "trailing"
    if name not in _TURBO or not trailing or config.get("rescale_betas_zero_snr"):
        return None
    return f"{name} with trailing timesteps"
