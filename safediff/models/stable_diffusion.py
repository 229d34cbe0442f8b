"""Stable Diffusion 1.x and 2.x."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from safediff.models.backbone import Backbone, Condition
from safediff.models.clip_text import MAX_BATCH, token_ids


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(Backbone):
    """One CLIP text encoder; 2.x has OpenCLIP's, which ships without its last layer."""

    pipeline_name: ClassVar[str] = "StableDiffusionPipeline"
    own_tokens: ClassVar[bool] = True

    def components(self) -> dict[str, Any]:
        """See ``Backbone``; no safety checker: the gate measures the model itself."""
        return {
            **super().components(),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Condition:
        """See ``Backbone``; the last hidden states of the text encoder."""
        ids = token_ids(self.tokenizer, texts).to(self.text_encoder.device)
        parts = [self.text_encoder(part).last_hidden_state for part in ids.split(MAX_BATCH)]
        return Condition(torch.cat(parts))
