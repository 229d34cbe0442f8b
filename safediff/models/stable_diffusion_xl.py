"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952), the base model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from safediff.models.backbone import Backbone, Condition
from safediff.models.clip_text import inner, read_layers


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL(Backbone):
    """Two text encoders, whose states before the last layer stand beside each other.

    The denoiser also reads the second one's pooled state and six numbers of sizes: the picture is
    asked for as an uncropped one of the model's own size.
    """

    pipeline_name: ClassVar[str] = "StableDiffusionXLPipeline"
    reads_inner_states: ClassVar[bool] = True

    tokenizer_2: Any
    text_encoder_2: Any
    zero_null: bool
    """Whether c_0 is all zeros instead of what the encoders make of the empty text."""

    @classmethod
    def from_pipeline(cls, name: str, pipeline: Any) -> Self:
        """See ``Backbone``; an autoencoder that overflows in half precision computes in float32."""
        vae = pipeline.vae
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)
        return cls(
            name=name,
            denoiser=pipeline.unet,
            vae=vae,
            scheduler=pipeline.scheduler,
            tokenizer=pipeline.tokenizer,
            text_encoder=pipeline.text_encoder,
            tokenizer_2=pipeline.tokenizer_2,
            text_encoder_2=pipeline.text_encoder_2,
            zero_null=pipeline.config.force_zeros_for_empty_prompt,
        )

    def components(self) -> dict[str, Any]:
        """See ``Backbone``; no watermark: what is measured is what is drawn."""
        return {
            **super().components(),
            "tokenizer_2": self.tokenizer_2,
            "text_encoder_2": self.text_encoder_2,
            "force_zeros_for_empty_prompt": self.zero_null,
            "add_watermarker": False,
        }

    @property
    def windows(self) -> dict[str, int]:
        """See ``Backbone``."""
        return {**super().windows, "tokenizer_2": int(self.tokenizer_2.model_max_length)}

    @property
    def decodes_in_float32(self) -> bool:
        """See ``Backbone``; the autoencoder's configuration says it."""
        return bool(self.vae.config.force_upcast)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Condition:
        """See ``Backbone``; ``added`` has ``text_embeds`` (b, dim) and ``time_ids`` (b, 6)."""
        first = torch.cat(read_layers(self.tokenizer, self.text_encoder, texts, inner))
        parts = read_layers(
            self.tokenizer_2, self.text_encoder_2, texts, lambda out: (inner(out), out[0])
        )
        second, pooled = (torch.cat(found) for found in zip(*parts, strict=True))
        hidden = torch.cat([first, second.to(first)], dim=-1)
        return Condition(hidden, {"text_embeds": pooled, "time_ids": self._time_ids(pooled)})

    def encode_with_null(self, texts: Sequence[str]) -> Condition:
        """See ``Backbone``; c_0 is all zeros where ``zero_null`` says so."""
        found = self.encode(texts)
        if self.zero_null:
            assert found.added is not None
            blank = [not text for text in texts]
            found.hidden[blank], found.added["text_embeds"][blank] = 0, 0
        return found

    def _time_ids(self, pooled: Tensor) -> Tensor:
        """Original size, crop, target size in pixels, for each row of ``pooled``."""
        size = self.picture_size
        return torch.tensor([*size, 0, 0, *size]).to(pooled).repeat(len(pooled), 1)
