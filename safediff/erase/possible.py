"""Whether a model can be erased with some settings, found out before anything is computed."""

from safediff.erase.closed_form.kv import require_cross_attention
from safediff.erase.closed_form.params import SpeedParams, UceParams
from safediff.erase.methods import EraserParams
from safediff.erase.params import DistilParams
from safediff.erase.weights import trainable_names
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.flow import FlowSteps
from safediff.models.schedulers import max_num_steps
from safediff.policy.plan import ConceptPlan


def require_erasable(
    backbone: Backbone, concepts: tuple[ConceptPlan, ...], params: EraserParams
) -> None:
    """Refuse what training or solving would refuse; erasers of other packages say it themselves.

    Raises:
        UsageError: the model has not what the settings are about, or not the room for their texts.
    """
    if isinstance(params, UceParams | SpeedParams):
        require_cross_attention(backbone.denoiser)
    elif isinstance(params, DistilParams):
        require_text_path(backbone, params)
        trainable_names(backbone.denoiser, params.trainable)
        require_rollouts(backbone, params)
        joined = "joined" in (params.loss_text, params.rollout_text)
        texts = [text for concept in concepts for text in concept.erase] if joined else [""]
        backbone.at_scale(backbone.encode([", ".join(texts)]), params.guidance_scale)


def require_rollouts(backbone: Backbone, params: DistilParams) -> None:
    """Refuse rollouts that the model has no such steps for, and timesteps it was not trained at.

    Raises:
        UsageError: see ``with_scheduler``; or bins of timesteps are asked for, and the model's own
            timesteps are not numbers of training steps (EDM's are logarithms of its levels); or
            a trajectory has more steps than its scheduler takes.
    """
    steps = backbone.rollout_scheduler(params.rollout_scheduler)
    known = isinstance(steps, FlowSteps) or hasattr(steps, "alphas_cumprod")
    if params.loss_timestep != "step" and not known:
        raise UsageError(
            f"erase.options.loss_timestep: {params.loss_timestep!r} draws timesteps of 0 to 999, "
            f"which {type(steps).__name__} does not count in",
            "set erase.options.loss_timestep: step",
        )
    asked, most = params.num_inference_steps, max_num_steps(steps)
    if asked > most:
        raise UsageError(
            f"erase.options.num_inference_steps: {asked}, but the "
            f"{type(steps).__name__} takes at most {most}",
            f"ask for at most {most}",
        )


def require_text_path(backbone: Backbone, params: DistilParams) -> None:
    """Refuse knobs that need keys and values of another making than the model's.

    Raises:
        UsageError: there is such a knob.
    """
    path = backbone.text_path
    if params.null_space and path == "stream":
        raise UsageError(
            "erase.options.null_space: keys and values of this model's text read a stream that "
            "text and picture share, so kept texts alone do not say what they read",
            "set null_space: 0, for example with preset: paper",
        )
    if params.warm_start and path == "stream":
        raise UsageError(
            "erase.options.warm_start: keys and values of this model's text read a stream that "
            "text and picture share, which no closed form knows",
            "set warm_start: 0, for example with preset: paper",
        )
    if params.way_back_share and path != "states":
        raise UsageError(
            "erase.options.way_back_share: leads back through keys and values that read the "
            "text encoder's states themselves; those of this model do not",
            "set way_back_share: 0",
        )
