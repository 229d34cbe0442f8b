"""A diffusers pipeline seen through one small interface; each family is a class of its own.

Symbols: x clean latents (b, c, h, w); eps the noise in them; z noised latents as the denoiser gets
them, z = alpha_t x + sigma_t eps; t timesteps (b,) or (); c conditions.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from safediff.models.prediction import Prediction, levels, target, to_noise
from safediff.models.schedulers import max_num_steps, scheduler_like
from safediff.policy.plan import SchedulerName, num_branches

TextPath = Literal["states", "projection", "stream"]
"""What keys and values of a text are made from: its states themselves; a projection of them that
all layers share; or a stream that text and picture mix in from layer to layer (joint attention)."""

DEFAULT_GUIDANCE = 5.0
DECODED_PX = 2**20
"""Pixels of the pictures that are decoded at a time, where they are not small."""
SMALL_PX = 128 * 128
"""Pictures of as many pixels are decoded in one batch, however many there are."""


@dataclass(frozen=True)
class Condition:
    """What the denoiser is conditioned on; one row a prompt."""

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

    def to(self, device: str, dtype: torch.dtype | None = None) -> "Condition":
        """All of it elsewhere, and in another type, if one is given, where it is floating-point."""

        def moved(value: Tensor) -> Tensor:
            cast = dtype is not None and value.is_floating_point()
            return value.to(device, dtype if cast else value.dtype)

        added = None if self.added is None else {k: moved(v) for k, v in self.added.items()}
        return Condition(moved(self.hidden), added)

    @staticmethod
    def cat(parts: Sequence["Condition"]) -> "Condition":
        """All rows of all parts, in order."""
        hidden = torch.cat([part.hidden for part in parts])
        if parts[0].added is None:
            return Condition(hidden)
        added = {k: torch.cat([p.added[k] for p in parts if p.added]) for k in parts[0].added}
        return Condition(hidden, added)


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """What erasing, sampling and measuring need of a model.

    A family says how texts are encoded, and what of the rest differs.
    """

    pipeline_name: ClassVar[str]
    """The diffusers pipeline that this family is loaded from and released as."""
    component: ClassVar[str] = "unet"
    """What the denoiser is called there."""
    own_tokens: ClassVar[bool] = False
    """E(text) is ``text_encoder(tokens).last_hidden_state``, so that tokens can be searched."""
    reads_inner_states: ClassVar[bool] = False
    """Whether ``encode`` reads the states of the text encoders' layers."""
    text_path: ClassVar[TextPath] = "states"
    num_start_tokens: ClassVar[int] = 1
    """Tokens before those of the text itself."""
    reads_padding: ClassVar[bool] = True
    """Attention reads the states behind a text's end token, too."""
    distilled_guidance: ClassVar[bool] = False
    """Guidance is an input of the network, or gone into it, instead of a second pass."""

    name: str
    """What the user called the model; for messages."""
    denoiser: Any
    """The network that is erased from, or anything that is called like it (an engine)."""
    vae: Any
    scheduler: Any
    """A diffusers scheduler; their base class declares none of the methods that they share."""
    tokenizer: Any
    """Of several the one with the shortest window, or the first."""
    text_encoder: Any
    """The one that reads its tokens."""

    @classmethod
    def from_pipeline(cls, name: str, pipeline: Any) -> Self:
        """The parts of a loaded diffusers pipeline of this family."""
        return cls(
            name=name,
            denoiser=getattr(pipeline, cls.component),
            vae=pipeline.vae,
            scheduler=pipeline.scheduler,
            tokenizer=pipeline.tokenizer,
            text_encoder=pipeline.text_encoder,
        )

    def components(self) -> dict[str, Any]:
        """What the diffusers pipeline of this family is made of, by the names that it takes."""
        return {
            self.component: self.denoiser,
            "vae": self.vae,
            "scheduler": self.scheduler,
            "tokenizer": self.tokenizer,
            "text_encoder": self.text_encoder,
        }

    def beside_denoiser(self) -> dict[str, Any]:
        """All components but the denoiser, by name."""
        return {name: x for name, x in self.components().items() if name != self.component}

    def with_denoiser(self, denoiser: Any) -> Self:
        """The same model around another denoiser (a patched one, an exported engine)."""
        return replace(self, denoiser=denoiser)

    def with_scheduler(self, name: SchedulerName) -> Self:
        """The same model drawn with another scheduler.

        Raises:
            UsageError: the named one does not go with what the model predicts.
        """
        return replace(self, scheduler=scheduler_like(name, self.scheduler))

    @property
    def vae_factor(self) -> int:
        """Pixels of a picture on a side of one latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width in pixels of a picture at the model's own size."""
        _, height, width = self.latent_shape
        return height * self.vae_factor, width * self.vae_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the latents of one picture at the model's own size."""
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.denoiser.config.in_channels, height, width

    @property
    def num_tokens(self) -> int:
        """Tokens of the text states of every prompt, start, end and padding included."""
        return int(self.tokenizer.model_max_length)

    @property
    def decodes_in_float32(self) -> bool:
        """Whether the autoencoder must not compute in half precision, where it overflows."""
        return False

    @property
    def windows(self) -> dict[str, int]:
        """Tokens of a text that are read, start and end included, by the tokenizer's name."""
        return {"tokenizer": int(self.tokenizer.model_max_length)}

    def as_read(self, text: str) -> str:
        """What of a text the tokenizers get."""
        return text

    @property
    def max_num_steps(self) -> int:
        """Most steps that the scheduler takes."""
        return max_num_steps(self.scheduler)

    @property
    def default_guidance(self) -> float:
        """Guidance scale where nothing is known of how the model is drawn with."""
        return DEFAULT_GUIDANCE

    @property
    def only_guidance(self) -> float | None:
        """The one guidance scale that the network can be asked at; None: any."""
        return None

    @property
    def prediction_type(self) -> Prediction:
        """What ``denoise`` returns."""
        found: Prediction = self.scheduler.config.get("prediction_type", "epsilon")
        return found

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Condition:
        """E(text) of every text, and what else the denoiser reads.

        Raises:
            UsageError: a text is longer than the encoder's window; CLIP would cut it silently.
        """

    def encode_with_null(self, texts: Sequence[str]) -> Condition:
        """``encode``, but c_0 for the empty text: some families have another one in its place."""
        return self.encode(texts)

    def null(self) -> Condition:
        """c_0, the empty prompt of guidance, one row."""
        return self.encode_with_null([""])

    def denoise(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's answer e(z, t, c), shape of z; ``prediction_type`` says what it is."""
        added = {} if condition.added is None else {"added_cond_kwargs": dict(condition.added)}
        out: Tensor = self.denoiser(
            z, t, encoder_hidden_states=condition.hidden, return_dict=False, **added
        )[0]
        return out

    def noise(self, e: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The noise prediction eps that an answer ``e`` of ``denoise`` stands for, shape of z."""
        return to_noise(self.prediction_type, e, z, *levels(self.scheduler, t, z))

    def compared(self, e: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """What two models' answers ``e`` to the same z are compared by: the noise predictions."""
        return self.noise(e, z, t)

    def noised(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What ``denoise`` gets at t (b,), shape of x."""
        alpha, sigma = levels(self.scheduler, t, x)
        return alpha * x + sigma * eps

    def target(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What ``denoise`` was trained to answer to ``noised(x, eps, t)``, shape of x."""
        return target(self.prediction_type, x, eps, *levels(self.scheduler, t, x))

    def at_scale(self, c: Condition, scale: float) -> Condition:
        """The condition for a guidance scale, which distilled networks read as an input."""
        return c

    def key_states(self, c: Condition) -> Tensor:
        """What keys and values of cross-attention multiply, (b, tokens, d); not with a stream."""
        return c.hidden

    def spelt_tokens(self, texts: Sequence[str]) -> Tensor:
        """Where the tokens of each text stand, start and end included, bool (b, tokens)."""
        found = self.tokenizer(list(texts), padding="max_length", truncation=False)
        return torch.tensor(found["attention_mask"]).bool()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, uint8 (b, 3, H, W), of final latents; bool (b,), whether all was finite.

        Where a latent or a decoded value is not finite, the picture shows nothing. Large pictures
        are decoded few at a time.
        """
        found = [self._decoded(part) for part in latents.split(self._decoded_at_a_time(latents))]
        if len(found) == 1:
            return found[0]
        images, finite = zip(*found, strict=True)
        return torch.cat(images), torch.cat(finite)

    def _decoded_at_a_time(self, latents: Tensor) -> int:
        """How many pictures: decoding takes far more memory than denoising where they are large."""
        height, width = latents.shape[-2:]
        size_px = height * width * self.vae_factor**2
        return max(1, len(latents) if size_px <= SMALL_PX else DECODED_PX // size_px)

    def _decoded(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """``decode``, all at once."""
        z = self._rescaled(latents.nan_to_num().to(self.vae.dtype))
        images: Tensor = self.vae.decode(z, return_dict=False)[0].float()
        finite = latents.isfinite().flatten(1).all(1) & images.isfinite().flatten(1).all(1)
        pixels = (images.nan_to_num().clamp(-1, 1) + 1) * 127.5
        return pixels.round().to(torch.uint8), finite

    def _rescaled(self, latents: Tensor) -> Tensor:
        """As the autoencoder takes them: by one scale and shift, or by each channel's."""
        config: Any = self.vae.config
        z: Tensor = latents / config.scaling_factor
        mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return z + (getattr(config, "shift_factor", None) or 0)
        mean, std = (torch.tensor(own).view(1, -1, 1, 1).to(z) for own in (mean, std))
        return z * std + mean

    def new_scheduler(self) -> Any:
        """A scheduler of its own for one trajectory (schedulers keep state)."""
        return copy.deepcopy(self.scheduler)

    def rollout_scheduler(self, name: SchedulerName) -> Any:
        """The named scheduler for one trajectory of erasing.

        Raises:
            UsageError: see ``with_scheduler``.
        """
        return self.with_scheduler(name).new_scheduler()


def denoise_in_parts(
    model: Backbone, z: Tensor, t: Tensor, condition: Condition, num_rows: int
) -> Tensor:
    """``denoise`` at one t (), with at most ``num_rows`` rows in a call."""
    parts = [slice(start, start + num_rows) for start in range(0, len(z), num_rows)]
    if len(parts) == 1:
        return model.denoise(z, t, condition)
    return torch.cat([model.denoise(z[part], t, condition.rows(part)) for part in parts])


def guided(
    backbone: Backbone, z: Tensor, t: Tensor, c_0: Condition, c: Condition, scale: float
) -> Tensor:
    """Classifier-free guidance e_0 + s_g (e_c - e_0), both branches in one call.

    A scale of at most 1 means e_c alone, as in diffusers. Where guidance is distilled into the
    network: the answer to c at this scale.
    """
    if num_branches(scale, backbone.distilled_guidance) == 1:
        return backbone.denoise(z, t, backbone.at_scale(c, scale))
    both = backbone.denoise(
        torch.cat([z, z]), t if t.ndim == 0 else torch.cat([t, t]), Condition.cat([c_0, c])
    )
    e_0, e_c = both.chunk(2)
    return e_0 + scale * (e_c - e_0)
