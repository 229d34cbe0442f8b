"""Networks from their configurations alone, for counting what they would take; nothing is loaded.

Made under ``FakeTensorMode`` they have shapes and precisions but no values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from safediff.models.architecture import Architecture
from safediff.models.backbone import Backbone, Condition
from safediff.models.flops import flop_counter
from safediff.models.stable_diffusion import StableDiffusion

NUM_TOKENS = 77


def pass_flops(architecture: Architecture) -> int:
    """FLOPs in one forward of one sample at the model's own size."""
    with FakeTensorMode(), torch.no_grad():
        backbone = skeleton_backbone(skeleton_unet(architecture, torch.float32))
        z, text = torch.zeros(1, *backbone.latent_shape), skeleton_condition(architecture, 1)
        with flop_counter() as counter:
            backbone.denoise(z, torch.tensor(500), text)
    return int(counter.get_total_flops())


def skeleton_unet(architecture: Architecture, dtype: torch.dtype) -> Any:
    """The frozen UNet."""
    with _default(dtype):
        unet = UNet2DConditionModel.from_config(dict(architecture.unet))
    return unet.requires_grad_(False).eval()


def skeleton_vae(architecture: Architecture, dtype: torch.dtype) -> Any:
    """The frozen autoencoder; in float32 where half precision makes it overflow."""
    if dtype == torch.float16 and architecture.decodes_in_float32:
        dtype = torch.float32
    with _default(dtype):
        vae = AutoencoderKL.from_config(dict(architecture.vae))
    return vae.requires_grad_(False).eval()


def skeleton_backbone(unet: Any) -> Backbone:
    """Around a UNet; the parts that texts and pictures need are not there."""
    lacking: Any = None
    return StableDiffusion(
        name="fake",
        denoiser=unet,
        text_encoder=lacking,
        tokenizer=lacking,
        vae=lacking,
        scheduler=lacking,
    )


def skeleton_condition(
    architecture: Architecture, count: int, dtype: torch.dtype = torch.float32
) -> Condition:
    """``count`` texts of zeros as the UNet reads them."""
    config = architecture.unet
    hidden = torch.zeros(count, NUM_TOKENS, config["cross_attention_dim"], dtype=dtype)
    if config.get("addition_embed_type") != "text_time":
        return Condition(hidden)
    width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    added = {"text_embeds": torch.zeros(count, width), "time_ids": torch.zeros(count, 6)}
    return Condition(hidden, {name: value.to(dtype) for name, value in added.items()})


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
