"""PixArt-alpha (arXiv:2310.00426) and PixArt-sigma (arXiv:2403.04692).

A transformer with cross-attention on T5's states, which all layers read through one projection.
The network predicts noise, and half of its channels predict a variance that no sampler reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from safediff.models import t5_text
from safediff.models.backbone import Backbone, Condition, TextPath
from safediff.models.clip_text import MAX_BATCH
from safediff.policy.plan import SchedulerName

MASK = "mask"
"""In ``Condition.added``: which text states are read, (b, tokens), 1 or 0."""


@dataclass(frozen=True, kw_only=True)
class PixArt(Backbone):
    """What both share."""

    component: ClassVar[str] = "transformer"
    text_path: ClassVar[TextPath] = "projection"
    num_start_tokens: ClassVar[int] = 0
    reads_padding: ClassVar[bool] = False

    window: int
    """Tokens that T5 reads of a text, the end token included."""

    @property
    def num_tokens(self) -> int:
        """See ``Backbone``."""
        return self.window

    @property
    def windows(self) -> dict[str, int]:
        """See ``Backbone``."""
        return {"tokenizer": self.window}

    def as_read(self, text: str) -> str:
        """See ``Backbone``; lower-cased, as the model was trained."""
        return text.lower().strip()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Condition:
        """See ``Backbone``."""
        ids, mask = (part.to(self.text_encoder.device) for part in self._tokens(texts))
        parts = zip(ids.split(MAX_BATCH), mask.split(MAX_BATCH), strict=True)
        hidden = [self.text_encoder(i, attention_mask=m).last_hidden_state for i, m in parts]
        return Condition(torch.cat(hidden), {MASK: mask})

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return t5_text.token_ids(self.tokenizer, [*map(self.as_read, texts)], self.window)

    def denoise(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See ``Backbone``; without the variance."""
        assert condition.added is not None
        out: Tensor = self.denoiser(
            z,
            encoder_hidden_states=condition.hidden,
            encoder_attention_mask=condition.added[MASK],
            timestep=t.expand(len(z)),
            added_cond_kwargs=self._size(z),
            return_dict=False,
        )[0]
        return out[:, : z.shape[1]]

    def _size(self, z: Tensor) -> dict[str, Tensor | None]:
        """What the network reads of the picture's size: nothing, but for alpha at 1024 pixels."""
        return {"resolution": None, "aspect_ratio": None}

    def key_states(self, c: Condition) -> Tensor:
        """See ``Backbone``; the projection of T5's states."""
        projection = self.denoiser.caption_projection
        if projection is None:
            return c.hidden
        with torch.no_grad():
            found: Tensor = projection(c.hidden)
        return found

    def spelt_tokens(self, texts: Sequence[str]) -> Tensor:
        """See ``Backbone``."""
        return self._tokens(texts)[1].bool()

    def rollout_scheduler(self, name: SchedulerName) -> Any:
        """See ``Backbone``.

        PixArt's own schedule spaces its timesteps evenly from the last to the first ("linspace"),
        T / (N - 1) apart. DDIM steps are T / N: with those timesteps it would take its latents for
        noisier or cleaner than they are, so it gets its own, ending at the last one ("trailing").
        """
        steps = super().rollout_scheduler(name)
        if name == "ddim" and self.scheduler.config.timestep_spacing == "linspace":
            return DDIMScheduler.from_config(steps.config, timestep_spacing="trailing")
        return steps


@dataclass(frozen=True, kw_only=True)
class PixArtAlpha(PixArt):
    """120 tokens; at 1024 pixels it reads the picture's size."""

    pipeline_name: ClassVar[str] = "PixArtAlphaPipeline"
    window: int = 120

    def _size(self, z: Tensor) -> dict[str, Tensor | None]:
        if self.denoiser.config.sample_size != 128:
            return super()._size(z)
        scale = self.vae_factor
        height, width = z.shape[-2] * scale, z.shape[-1] * scale
        sizes = (torch.full((len(z), 1), n, device=z.device) for n in (height, width))
        ratio = torch.full((len(z), 1), height / width, device=z.device)
        return {"resolution": torch.cat([*sizes], dim=1).to(z), "aspect_ratio": ratio.to(z)}


@dataclass(frozen=True, kw_only=True)
class PixArtSigma(PixArt):
    """300 tokens."""

    pipeline_name: ClassVar[str] = "PixArtSigmaPipeline"
    window: int = 300
