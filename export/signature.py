"""What the graph of a denoiser takes and gives: one description for each of diffusers' networks.

Names are those that optimum's ONNX pipelines look for, where they have the network. Dimensions that
have a name are dynamic, and those of one name are equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from safediff.errors import UsageError
from safediff.export.calls import Call, CallFlux, CallPixArt, CallStableDiffusion3, CallUNet

BATCH, HEIGHT, WIDTH = "batch", "height", "width"
TEXT_TOKENS, LATENT_TOKENS = "sequence_length", "packed_height_width"
NUM_TIME_IDS = 6
"""Base SDXL: original size, crop, target size, two numbers each."""
UNSUPPORTED = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
COVERED = "Stable Diffusion 1.x, 2.x and base SDXL"


@dataclass(frozen=True)
class Input:
    """One input of a graph."""

    name: str
    shape: tuple[str | int, ...]
    dtype: torch.dtype | None = None
    """None: that of the weights. Times and scales are float32: float16 cannot hold 946.26."""


@dataclass(frozen=True)
class Sides:
    """Which heights and widths of latents a graph takes."""

    multiple: int
    """They must be multiples of this."""
    largest: int | None = None


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A kind of network."""

    inputs: Callable[[Any, int], tuple[Input, ...]]
    """Of a configuration and the tokens of a text, in the graph's order; the latents first."""
    output: str
    sides: Callable[[Any], Sides | None]
    """Of a configuration; None where the latents have no height and width of their own."""
    call: type[Call]
    """What is traced."""

    @property
    def component(self) -> str:
        """What diffusers' pipelines call it."""
        return self.call.component

    @property
    def prefix(self) -> str:
        """Of the parameters' names in a graph."""
        return f"{self.component}."


def _unet_inputs(config: Any, num_tokens: int) -> tuple[Input, ...]:
    """See ``Signature``.

    Raises:
        UsageError: the UNet has inputs that the graph does not offer.
    """
    given = [name for name in UNSUPPORTED if config.get(name) is not None]
    if given or config.addition_embed_type not in (None, "text_time"):
        raise UsageError(
            f"this UNet needs {', '.join(given) or config.addition_embed_type}; the ONNX export "
            f"covers {COVERED}",
            "remove onnx from export.targets",
        )
    inputs = (
        Input("sample", (BATCH, config.in_channels, HEIGHT, WIDTH)),
        Input("timestep", (), torch.float32),
        Input("encoder_hidden_states", (BATCH, num_tokens, config.cross_attention_dim)),
    )
    if config.addition_embed_type is None:
        return inputs
    added = NUM_TIME_IDS * config.addition_time_embed_dim
    pooled = config.projection_class_embeddings_input_dim - added
    return *inputs, Input("text_embeds", (BATCH, pooled)), Input("time_ids", (BATCH, NUM_TIME_IDS))


def _pixart_inputs(config: Any, num_tokens: int) -> tuple[Input, ...]:
    width = config.caption_channels or config.cross_attention_dim
    inputs = (
        Input("hidden_states", (BATCH, config.in_channels, HEIGHT, WIDTH)),
        Input("encoder_hidden_states", (BATCH, TEXT_TOKENS, width)),
        Input("encoder_attention_mask", (BATCH, TEXT_TOKENS), torch.int64),
        Input("timestep", (BATCH,), torch.float32),
    )
    if not reads_size(config):
        return inputs
    sizes = Input("resolution", (BATCH, 2), torch.float32)
    return *inputs, sizes, Input("aspect_ratio", (BATCH, 1), torch.float32)


def reads_size(config: Any) -> bool:
    """Whether a PixArt network reads the picture's size: alpha at 1024 pixels."""
    said = config.use_additional_conditions
    return bool(config.sample_size == 128 if said is None else said)


def _sd3_inputs(config: Any, num_tokens: int) -> tuple[Input, ...]:
    return (
        Input("hidden_states", (BATCH, config.in_channels, HEIGHT, WIDTH)),
        Input("encoder_hidden_states", (BATCH, TEXT_TOKENS, config.joint_attention_dim)),
        Input("pooled_projections", (BATCH, config.pooled_projection_dim)),
        Input("timestep", (BATCH,), torch.float32),
    )


def _flux_inputs(config: Any, num_tokens: int) -> tuple[Input, ...]:
    inputs = (
        Input("hidden_states", (BATCH, LATENT_TOKENS, config.in_channels)),
        Input("encoder_hidden_states", (BATCH, TEXT_TOKENS, config.joint_attention_dim)),
        Input("pooled_projections", (BATCH, config.pooled_projection_dim)),
        Input("timestep", (BATCH,), torch.float32),
        Input("txt_ids", (TEXT_TOKENS, 3), torch.float32),
        Input("img_ids", (LATENT_TOKENS, 3), torch.float32),
    )
    if not config.guidance_embeds:
        return inputs
    return *inputs, Input("guidance", (BATCH,), torch.float32)


SIGNATURES: Mapping[str, Signature] = {
    "UNet2DConditionModel": Signature(
        inputs=_unet_inputs,
        output="out_sample",
        # the graph lacks the branch that resizes where a level's size is odd
        sides=lambda config: Sides(2 ** (len(config.block_out_channels) - 1)),
        call=CallUNet,
    ),
    "PixArtTransformer2DModel": Signature(
        inputs=_pixart_inputs,
        output="out_hidden_states",
        sides=lambda config: Sides(config.patch_size),
        call=CallPixArt,
    ),
    "SD3Transformer2DModel": Signature(
        inputs=_sd3_inputs,
        output="out_hidden_states",
        sides=lambda config: Sides(
            config.patch_size, config.patch_size * config.pos_embed_max_size
        ),
        call=CallStableDiffusion3,
    ),
    "FluxTransformer2DModel": Signature(
        inputs=_flux_inputs,
        output="out_hidden_states",
        sides=lambda config: None,
        call=CallFlux,
    ),
}
"""By the name of diffusers' class, which a configuration holds as ``_class_name``."""
UNET_PREFIX = SIGNATURES["UNet2DConditionModel"].prefix
PREFIXES = tuple(dict.fromkeys(signature.prefix for signature in SIGNATURES.values()))


def widens_scores(config: Any, dtype: torch.dtype) -> bool:
    """Whether a graph in this type computes attention scores in float32.

    Those of networks that say ``upcast_attention``, as Stable Diffusion 2.1, leave the range of
    float16. PyTorch's attention does not write them down.
    """
    return dtype == torch.float16 and bool(config.get("upcast_attention"))


def signature_of(class_name: str) -> Signature:
    """The description of a network.

    Raises:
        UsageError: there is none.
    """
    if class_name not in SIGNATURES:
        raise UsageError(
            f"{class_name}: the ONNX export covers {', '.join(SIGNATURES)}",
            "remove onnx from export.targets",
        )
    return SIGNATURES[class_name]
