"""Steps and guidance that a served model may be asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from safediff.guard.base import Guard
from safediff.models.backbone import Backbone

DEFAULT_NUM_STEPS = 25
"""Where no certificate says what the model was verified with."""


@dataclass(frozen=True)
class Settings:
    """What the pictures of one batch share."""

    num_steps: int
    guidance_scale: float


class Misfit(NamedTuple):
    """A setting that is not drawn with."""

    param: str
    """Which one."""
    message: str
    """Why not, and what is."""


def verified_settings(plan: Mapping[str, Any]) -> Settings | None:
    """Those that a resolved policy was met with; None where it does not say."""
    sampling = plan.get("verify", {}).get("sampling")
    if not sampling:
        return None
    return Settings(sampling["num_steps"], sampling["guidance_scale"])


def default_settings(backbone: Backbone) -> Settings:
    """Where nothing was verified."""
    return Settings(min(DEFAULT_NUM_STEPS, backbone.max_num_steps), backbone.default_guidance)


def misfit(
    settings: Settings, backbone: Backbone, guard: Guard | None, verified: Settings | None
) -> Misfit | None:
    """What is wrong with settings; None where pictures can be drawn with them.

    A guard acts on guidance, after its warm-up: few steps or little guidance would switch it off,
    so behind one nothing is drawn but what was verified.
    """
    if guard is not None:
        found = _past_the_guard(settings, guard, verified)
        if found is not None:
            return found
    if settings.num_steps > (most := backbone.max_num_steps):
        return Misfit("num_steps", f"this model's scheduler takes at most {most} steps")
    only = backbone.only_guidance
    if only is not None and settings.guidance_scale != only:
        return Misfit("guidance_scale", f"this model has no guidance; only {only:g} is drawn with")
    return None


def _past_the_guard(settings: Settings, guard: Guard, verified: Settings | None) -> Misfit | None:
    if verified is not None:
        same_steps = settings.num_steps == verified.num_steps
        if same_steps and settings.guidance_scale == verified.guidance_scale:
            return None
        return Misfit(
            "guidance_scale" if same_steps else "num_steps",
            f"behind guard {guard.name} this model was verified with {verified.num_steps} steps at "
            f"guidance_scale {verified.guidance_scale:g}, and draws with nothing else",
        )
    if settings.num_steps <= (warmup := guard.params.num_warmup_steps):
        return Misfit("num_steps", f"guard {guard.name} acts after {warmup} steps, ask for more")
    if not settings.guidance_scale > 1:  # nor what is no number
        return Misfit("guidance_scale", f"guard {guard.name} acts on guidance, ask for more than 1")
    return None
