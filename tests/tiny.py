"""Tiny random Stable Diffusion pipelines: the real classes, seconds on one core.

Every parameter is perturbed, so that no two are equal: a freshly initialised network is all ones
in its norms and zeros in its biases, and a mix-up of two of them would not show.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from session_folder import made_once
from tokenizers import pre_tokenizers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from safediff.export.engine_files import Precision
from safediff.export.to_onnx import export_denoiser, swap_weights
from safediff.models.stable_diffusion import StableDiffusion
from safediff.models.stable_diffusion_xl import StableDiffusionXL

M = TypeVar("M", bound=nn.Module)

TEXT_DIM = 16
NUM_TOKENS = 77
LATENT_CHANNELS = 4
LATENT_SIZE = 8


def perturb(module: M, seed: int = 0, scale: float = 0.05) -> M:
    """Add seeded noise to every parameter in place; returns the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module.eval()


Form = Literal["sd", "sd-v", "sdxl"]
_FORMS: Mapping[Form, Mapping[str, Any]] = {
    "sd": {"cross_attention_dim": TEXT_DIM, "attention_head_dim": 2},
    "sd-v": {
        "cross_attention_dim": TEXT_DIM,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "cross_attention_dim": 2 * TEXT_DIM,
        "attention_head_dim": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + TEXT_DIM,
    },
}
"""What the UNets of SD 1.x, SD 2.1 and base SDXL do not have in common."""


def unet_of(form: Form) -> UNet2DConditionModel:
    """A UNet with two levels, as its class initialises it: many parameters are equal."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        **_FORMS[form],
    ).eval()


def form_of(xl: bool) -> Form:
    """SD 1.x, or base SDXL."""
    return "sdxl" if xl else "sd"


def fresh_unet(xl: bool = False) -> UNet2DConditionModel:
    """``unet_of`` SD 1.x, or base SDXL."""
    return unet_of(form_of(xl))


def tiny_unet(xl: bool = False, seed: int = 0) -> UNet2DConditionModel:
    """A random UNet with two levels: SD 1.x form, or the form of base SDXL."""
    return perturb(fresh_unet(xl), seed)


def tiny_vae(
    seed: int = 1,
    channels: int = LATENT_CHANNELS,
    shift_factor: float | None = None,
    num_halvings: int = 1,
) -> AutoencoderKL:
    """A random autoencoder, usually of factor 2: 8 x 8 latents make 16 x 16 pictures."""
    vae = AutoencoderKL(
        block_out_channels=(8,) * num_halvings + (16,),
        down_block_types=("DownEncoderBlock2D",) * (num_halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (num_halvings + 1),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2**num_halvings * LATENT_SIZE,
        shift_factor=shift_factor,
    )
    return perturb(vae, seed)


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose words are single characters; its two files are left in ``folder``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=NUM_TOKENS)


def clip_text_config(tokenizer: CLIPTokenizer, width: int = TEXT_DIM) -> CLIPTextConfig:
    """Of a text encoder with two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=TEXT_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=NUM_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_pipeline(folder: Path, seed: int = 0) -> StableDiffusionPipeline:
    """A random SD 1.x pipeline with DDIM; ``folder`` receives the tokenizer's files."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=perturb(CLIPTextModel(clip_text_config(tokenizer)), seed),
        tokenizer=tokenizer,
        unet=tiny_unet(seed=seed),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_xl_pipeline(folder: Path, seed: int = 0) -> StableDiffusionXLPipeline:
    """A random pipeline in the form of base SDXL with Euler steps (timesteps are fractional)."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder)
    config = clip_text_config(tokenizer, TEXT_DIM // 2)
    tokenizer_2 = CLIPTokenizer.from_pretrained(folder, model_max_length=NUM_TOKENS, pad_token="!")
    config_2 = clip_text_config(tokenizer_2, TEXT_DIM + TEXT_DIM // 2)
    config_2.hidden_act = "gelu"
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=perturb(CLIPTextModel(config), seed),
        text_encoder_2=perturb(CLIPTextModelWithProjection(config_2), seed + 1),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=tiny_unet(xl=True, seed=seed),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
        add_watermarker=False,
    )


def tiny_backbone(folder: Path) -> StableDiffusion:
    """``tiny_pipeline`` as a backbone."""
    return StableDiffusion.from_pipeline("tiny", tiny_pipeline(folder))


def tiny_xl_backbone(folder: Path) -> StableDiffusionXL:
    """``tiny_xl_pipeline`` as a backbone."""
    return StableDiffusionXL.from_pipeline("tiny-xl", tiny_xl_pipeline(folder))


def tiny_v_pipeline(folder: Path, seed: int = 0) -> StableDiffusionPipeline:
    """A random pipeline in the form of SD 2.1: velocities, and OpenCLIP's text encoder.

    That ships without its last layer, so that its last hidden state is the one before the last.
    """
    pipeline = tiny_pipeline(folder, seed)
    pipeline.unet = perturb(unet_of("sd-v"), seed)
    pipeline.text_encoder = perturb(open_clip_tower(pipeline.tokenizer, num_layers=2), seed)
    pipeline.tokenizer = CLIPTokenizer.from_pretrained(
        folder, model_max_length=NUM_TOKENS, pad_token="!"
    )
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, prediction_type="v_prediction"
    )
    return pipeline


def open_clip_tower(tokenizer: CLIPTokenizer, num_layers: int) -> CLIPTextModel:
    """OpenCLIP's text encoder as transformers holds it, not yet random."""
    config = clip_text_config(tokenizer)
    config.hidden_act, config.num_hidden_layers = "gelu", num_layers
    return CLIPTextModel(config)


def fresh_engine(xl: bool = False, precision: Precision = "fp32", opset: int = 18) -> Path:
    """``fresh_engine_of`` SD 1.x, or base SDXL."""
    return fresh_engine_of(form_of(xl), precision, opset)


def tiny_engine(xl: bool = False, precision: Precision = "fp32", opset: int = 18) -> Path:
    """``tiny_engine_of`` SD 1.x, or base SDXL."""
    return tiny_engine_of(form_of(xl), precision, opset)


@functools.cache
def fresh_engine_of(form: Form, precision: Precision = "fp32", opset: int = 18) -> Path:
    """Engine folder of ``unet_of``, exported once a session (ten seconds); do not write to it.

    Tests take ``tiny_engine_of``, whose weights differ from each other.
    """

    def make(folder: Path) -> None:
        export_denoiser(unet_of(form), folder, precision=precision, opset=opset)

    return made_once(f"fresh-{form}-{precision}-{opset}", make)


@functools.cache
def tiny_engine_of(form: Form, precision: Precision = "fp32", opset: int = 18) -> Path:
    """Engine folder of the perturbed UNet: the graph of ``fresh_engine_of``, other weights."""
    source = fresh_engine_of(form, precision, opset)

    def make(folder: Path) -> None:
        swap_weights(source, folder, perturb(unet_of(form)).state_dict(), metadata={})

    return made_once(f"tiny-{form}-{precision}-{opset}", make)
