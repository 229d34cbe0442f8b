"""A diffusers pipeline seen through one small interface.

Symbols: z latents (b, c, h, w); t timesteps (b,) or (); eps noise prediction, shape of z.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from safediff.errors import UsageError


@dataclass(frozen=True)
class Condition:
    """What the UNet is conditioned on; one row a prompt."""

    hidden: Tensor
    """Text states (b, tokens, dim)."""
    added: Mapping[str, Tensor] | None = None
    """Further inputs by name, each (b, ...); SDXL has ``text_embeds`` and ``time_ids``."""

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, index: Tensor | slice) -> "Condition":
        """The chosen rows."""
        added = None if self.added is None else {k: v[index] for k, v in self.added.items()}
        return Condition(self.hidden[index], added)

    def repeat(self, count: int) -> "Condition":
        """One row, ``count`` times."""
        return self.rows(torch.zeros(count, dtype=torch.long))

    @staticmethod
    def cat(parts: Sequence["Condition"]) -> "Condition":
        """All rows of all parts, in order."""
        hidden = torch.cat([part.hidden for part in parts])
        if parts[0].added is None:
            return Condition(hidden)
        added = {k: torch.cat([p.added[k] for p in parts if p.added]) for k in parts[0].added}
        return Condition(hidden, added)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Stable Diffusion 1.x or 2.x. ``unet`` is anything with diffusers' UNet call signature."""

    name: str
    """What the user called the model; for messages."""
    unet: Any
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    scheduler: Any
    """A diffusers scheduler; their base class declares none of the methods that they share."""

    def with_unet(self, unet: Any) -> "Backbone":
        """The same model around another denoiser (a patched UNet, an exported engine)."""
        return replace(self, unet=unet)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the latents of one picture at the model's own size."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Condition:
        """E(text): the last hidden states of the text encoder.

        Raises:
            UsageError: a text is longer than the encoder's window; CLIP would cut it silently.
        """
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=False)["input_ids"]
        window = self.tokenizer.model_max_length
        for text, row in zip(texts, tokens, strict=True):
            if len(row) > window:
                raise UsageError(
                    f"text has {len(row) - 2} tokens, the text encoder reads {window - 2}: "
                    f"{text[:60]!r}",
                    "shorten it or split the concept",
                )
        ids = torch.tensor(tokens, device=self.text_encoder.device)
        parts = [self.text_encoder(part).last_hidden_state for part in ids.split(64)]
        return Condition(torch.cat(parts))

    def denoise(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise prediction eps(z, t, c)."""
        added = {} if condition.added is None else {"added_cond_kwargs": dict(condition.added)}
        out: Tensor = self.unet(
            z, t, encoder_hidden_states=condition.hidden, return_dict=False, **added
        )[0]
        return out

    @torch.no_grad()
    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, uint8 (b, 3, H, W), of final latents; bool (b,), whether all was finite.

        Where a latent or a decoded value is not finite, the picture shows nothing.
        """
        config: Any = self.vae.config
        z = latents.nan_to_num().to(self.vae.dtype) / config.scaling_factor
        images: Tensor = self.vae.decode(z, return_dict=False)[0].float()
        finite = latents.isfinite().flatten(1).all(1) & images.isfinite().flatten(1).all(1)
        pixels = (images.nan_to_num().clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8), finite

    def new_scheduler(self) -> Any:
        """A scheduler of its own for one trajectory (schedulers keep state)."""
        return copy.deepcopy(self.scheduler)


def guided(
    backbone: Backbone, z: Tensor, t: Tensor, c_0: Condition, c: Condition, scale: float
) -> Tensor:
    """Classifier-free guidance e_0 + s_g (e_c - e_0), both branches in one call."""
    both = backbone.denoise(
        torch.cat([z, z]), t if t.ndim == 0 else torch.cat([t, t]), Condition.cat([c_0, c])
    )
    e_0, e_c = both.chunk(2)
    return e_0 + scale * (e_c - e_0)
