"""FLUX.1 dev and schnell (Black Forest Labs 2024; no paper).

Joint attention and flow matching as in SD3, then layers in which text and picture share all
weights. Guidance is distilled into the network: dev reads its scale as an input and was not
trained with dropped texts for a second, empty-prompt answer; schnell reads none. Inside, latents
are packed two by two; outside this module they are (b, c, h, w) as everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from safediff.errors import UsageError
from safediff.models import clip_text, t5_text
from safediff.models.backbone import Backbone, Condition, TextPath
from safediff.models.clip_text import MAX_BATCH
from safediff.models.flow import FlowSteps, require_flow_steps
from safediff.models.prediction import Prediction
from safediff.policy.plan import SchedulerName

POOLED, GUIDANCE = "pooled", "guidance"
"""In ``Condition.added``: what CLIP makes of the whole text, (b, dim); the guidance scale, (b,)."""
DEFAULT_GUIDANCE = 3.5
LATENT_SIZE = 128
"""Height and width of the latents of a picture of 1024 pixels, as diffusers draws by default."""


@dataclass(frozen=True, kw_only=True)
class Flux(Backbone):
    """The text states are T5's; CLIP gives the pooled text only."""

    pipeline_name: ClassVar[str] = "FluxPipeline"
    component: ClassVar[str] = "transformer"
    text_path: ClassVar[TextPath] = "stream"
    distilled_guidance: ClassVar[bool] = True

    tokenizer_2: Any
    text_encoder_2: Any
    window: int
    """Tokens that T5 reads of a text; CLIP reads fewer."""
    latent_size: int

    @classmethod
    def from_pipeline(cls, name: str, pipeline: Any) -> Self:
        """See ``Backbone``.

        Raises:
            UsageError: the scheduler takes other steps than Euler's.
        """
        require_flow_steps(name, pipeline.scheduler)
        return cls(
            name=name,
            denoiser=pipeline.transformer,
            vae=pipeline.vae,
            scheduler=pipeline.scheduler,
            tokenizer=pipeline.tokenizer,
            text_encoder=pipeline.text_encoder,
            tokenizer_2=pipeline.tokenizer_2,
            text_encoder_2=pipeline.text_encoder_2,
            window=512 if pipeline.transformer.config.guidance_embeds else 256,
            latent_size=LATENT_SIZE,
        )

    def components(self) -> dict[str, Any]:
        """See ``Backbone``."""
        return {
            **super().components(),
            "tokenizer_2": self.tokenizer_2,
            "text_encoder_2": self.text_encoder_2,
        }

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """See ``Backbone``."""
        return self.denoiser.config.in_channels // 4, self.latent_size, self.latent_size

    @property
    def num_tokens(self) -> int:
        """See ``Backbone``."""
        return self.window

    @property
    def windows(self) -> dict[str, int]:
        """See ``Backbone``."""
        return {**super().windows, "tokenizer_2": self.window}

    @property
    def default_guidance(self) -> float:
        """See ``Backbone``; dev's as published."""
        return DEFAULT_GUIDANCE if self.only_guidance is None else self.only_guidance

    @property
    def only_guidance(self) -> float | None:
        """See ``Backbone``; schnell reads none."""
        return None if self.denoiser.config.guidance_embeds else 1.0

    @property
    def prediction_type(self) -> Prediction:
        """See ``Backbone``."""
        return "flow"

    def compared(self, e: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """See ``Backbone``; velocities: at sigma = 1 every answer stands for the same noise."""
        return e

    def new_scheduler(self) -> FlowSteps:
        """See ``Backbone``."""
        steps: FlowSteps = FlowSteps.of(self.scheduler, (self.latent_size // 2) ** 2, evenly=True)
        return steps

    def rollout_scheduler(self, name: SchedulerName) -> Any:
        """See ``Backbone``; flow matching has no DDIM, its own Euler steps stand for it."""
        return self.with_scheduler("model" if name == "ddim" else name).new_scheduler()

    def at_scale(self, c: Condition, scale: float) -> Condition:
        """See ``Backbone``.

        Raises:
            UsageError: schnell, which reads no scale, is asked at another than 1.
        """
        assert c.added is not None
        if GUIDANCE in c.added:
            scales = torch.full_like(c.added[GUIDANCE], scale)
            return replace(c, added={**c.added, GUIDANCE: scales})
        if scale != 1:
            raise UsageError(
                f"{self.name}: has no guidance, so it cannot be asked at scale {scale:g}",
                "set guidance_scale: 1 in verify.sampling and erase.options",
            )
        return c

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Condition:
        """See ``Backbone``; at the published guidance scale until ``at_scale`` says otherwise."""
        clip_ids = clip_text.token_ids(self.tokenizer, texts).to(self.text_encoder.device)
        ids, _ = t5_text.token_ids(self.tokenizer_2, texts, self.window)
        ids = ids.to(self.text_encoder_2.device)
        states = [self.text_encoder_2(part).last_hidden_state for part in ids.split(MAX_BATCH)]
        whole = [self.text_encoder(part).pooler_output for part in clip_ids.split(MAX_BATCH)]
        added = {POOLED: torch.cat(whole)}
        if self.denoiser.config.guidance_embeds:
            # float32 in every precision, as the pipeline gives it
            added[GUIDANCE] = torch.full(
                (len(texts),), DEFAULT_GUIDANCE, device=ids.device, dtype=torch.float32
            )
        return Condition(torch.cat(states), added)

    def denoise(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See ``Backbone``."""
        assert condition.added is not None
        height, width = z.shape[-2:]
        out: Tensor = self.denoiser(
            pack(z),
            timestep=t.expand(len(z)).to(z.dtype) / 1000,
            guidance=condition.added.get(GUIDANCE),
            pooled_projections=condition.added[POOLED],
            encoder_hidden_states=condition.hidden,
            txt_ids=condition.hidden.new_zeros(condition.hidden.shape[1], 3),
            img_ids=positions(height // 2, width // 2, z.device).to(condition.hidden),
            return_dict=False,
        )[0]
        return unpack(out, height, width)


def pack(z: Tensor) -> Tensor:
    """(b, c, h, w) as (b, h/2 * w/2, 4 c): one token for two by two latents."""
    squares: Tensor = z.unflatten(-1, (-1, 2)).unflatten(2, (-1, 2))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The latents (b, c, height, width) that ``pack`` made tokens of."""
    z: Tensor = tokens.unflatten(1, (height // 2, width // 2)).unflatten(-1, (-1, 2, 2))
    return z.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(height: int, width: int, device: torch.device) -> Tensor:
    """(0, row, column) of every packed latent, (height * width, 3)."""
    along = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = torch.meshgrid(*along, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
