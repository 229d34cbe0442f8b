"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206).

A transformer with joint attention of a text and a picture stream, trained by flow matching; three
text encoders, of which T5 may be left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from safediff.models import clip_text, t5_text
from safediff.models.backbone import Backbone, Condition, TextPath
from safediff.models.clip_text import MAX_BATCH
from safediff.models.flow import FlowSteps, require_flow_steps
from safediff.models.prediction import Prediction
from safediff.policy.plan import SchedulerName

POOLED = "pooled"
"""In ``Condition.added``: what CLIP makes of the whole text, (b, dim)."""


@dataclass(frozen=True, kw_only=True)
class StableDiffusion3(Backbone):
    """The text states are those of both CLIP encoders side by side, then those of T5."""

    pipeline_name: ClassVar[str] = "StableDiffusion3Pipeline"
    component: ClassVar[str] = "transformer"
    text_path: ClassVar[TextPath] = "stream"

    tokenizer_2: Any
    text_encoder_2: Any
    tokenizer_3: Any
    """None where the model comes without T5."""
    text_encoder_3: Any
    window: int = 256
    """Tokens that T5 reads of a text; CLIP reads fewer."""

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
            tokenizer_3=pipeline.tokenizer_3,
            text_encoder_3=pipeline.text_encoder_3,
        )

    def components(self) -> dict[str, Any]:
        """See ``Backbone``."""
        return {
            **super().components(),
            "tokenizer_2": self.tokenizer_2,
            "text_encoder_2": self.text_encoder_2,
            "tokenizer_3": self.tokenizer_3,
            "text_encoder_3": self.text_encoder_3,
        }

    @property
    def num_tokens(self) -> int:
        """See ``Backbone``."""
        return int(self.tokenizer.model_max_length) + self.window

    @property
    def windows(self) -> dict[str, int]:
        """See ``Backbone``."""
        second = {"tokenizer_2": int(self.tokenizer_2.model_max_length)}
        third = {} if self.text_encoder_3 is None else {"tokenizer_3": self.window}
        return {**super().windows, **second, **third}

    @property
    def prediction_type(self) -> Prediction:
        """See ``Backbone``."""
        return "flow"

    def compared(self, e: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """See ``Backbone``; velocities: at sigma = 1 every answer stands for the same noise."""
        return e

    def new_scheduler(self) -> FlowSteps:
        """See ``Backbone``."""
        _, height, width = self.latent_shape
        patch = self.denoiser.config.patch_size
        steps: FlowSteps = FlowSteps.of(
            self.scheduler, (height // patch) * (width // patch), max_shift=1.16
        )
        return steps

    def rollout_scheduler(self, name: SchedulerName) -> Any:
        """See ``Backbone``; flow matching has no DDIM, its own Euler steps stand for it."""
        return self.with_scheduler("model" if name == "ddim" else name).new_scheduler()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Condition:
        """See ``Backbone``."""
        first, pooled = self._clip(self.tokenizer, self.text_encoder, texts)
        second, pooled_2 = self._clip(self.tokenizer_2, self.text_encoder_2, texts)
        both, t5 = torch.cat([first, second], dim=-1), self._t5(texts, like=first)
        hidden = torch.cat([F.pad(both, (0, t5.shape[-1] - both.shape[-1])), t5], dim=1)
        return Condition(hidden, {POOLED: torch.cat([pooled, pooled_2], dim=-1)})

    def _clip(self, tokenizer: Any, encoder: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States before the last layer (b, tokens, dim), the projected whole (b, dim)."""
        parts = clip_text.read_layers(
            tokenizer, encoder, texts, lambda out: (clip_text.inner(out), out.text_embeds)
        )
        states, whole = (torch.cat(found) for found in zip(*parts, strict=True))
        return states, whole

    def _t5(self, texts: Sequence[str], like: Tensor) -> Tensor:
        if self.text_encoder_3 is None:
            width = self.denoiser.config.joint_attention_dim
            return like.new_zeros(len(texts), self.window, width)
        ids, _ = t5_text.token_ids(self.tokenizer_3, texts, self.window)
        parts = ids.to(self.text_encoder_3.device).split(MAX_BATCH)
        return torch.cat([self.text_encoder_3(part).last_hidden_state for part in parts])

    def denoise(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See ``Backbone``."""
        assert condition.added is not None
        out: Tensor = self.denoiser(
            z,
            timestep=t.expand(len(z)),
            encoder_hidden_states=condition.hidden,
            pooled_projections=condition.added[POOLED],
            return_dict=False,
        )[0]
        return out
