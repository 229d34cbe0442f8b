"""Tiny random pipelines of the transformer families: the real classes, seconds on one core."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny import LATENT_SIZE, TEXT_DIM, clip_text_config, perturb, tiny_tokenizer, tiny_vae
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

T5_TOKENS = 24
"""Window of the tests; the families' own are 120 to 512 and slow."""
FLOW_CHANNELS = 16


def tiny_t5_tokenizer(num_tokens: int = T5_TOKENS) -> T5Tokenizer:
    """A T5 tokenizer whose words are single letters; needs no sentencepiece."""
    letters = [chr(code) for code in range(33, 127)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}", -2.0)]
    vocabulary = [*special, *((letter, -3.0) for letter in letters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=num_tokens)


def tiny_t5(seed: int = 5) -> T5EncoderModel:
    """A random T5 encoder of ``TEXT_DIM``."""
    config = T5Config(
        vocab_size=len(tiny_t5_tokenizer()),
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=2 * TEXT_DIM,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    return perturb(T5EncoderModel(config), seed)


def flow_vae() -> AutoencoderKL:
    """A random autoencoder with the channels and the shift of SD3's and FLUX's, factor 2."""
    return tiny_vae(channels=FLOW_CHANNELS, shift_factor=0.1)


def tiny_pixart(sigma: bool = False, sample_size: int = LATENT_SIZE, seed: int = 0) -> Any:
    """A random PixArt-alpha or -sigma pipeline; at size 128 alpha reads the picture's size."""
    torch.manual_seed(seed)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=TEXT_DIM,
        sample_size=sample_size,
        use_additional_conditions=False if sigma else None,
    )
    pipeline = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return pipeline(
        tokenizer=tiny_t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=tiny_vae(),
        transformer=perturb(transformer, seed),
        scheduler=DPMSolverMultistepScheduler(),
    )


def tiny_sd3(
    folder: Path,
    seed: int = 0,
    t5: bool = True,
    dual_attention_layers: tuple[int, ...] = (),
    **scheduler: Any,
) -> StableDiffusion3Pipeline:
    """A random SD3 pipeline; with dual attention layers in the form of SD 3.5 medium."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder)
    config = clip_text_config(tokenizer)
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        in_channels=FLOW_CHANNELS,
        out_channels=FLOW_CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * TEXT_DIM,
        caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT_DIM,
        pos_embed_max_size=12,
        qk_norm="rms_norm" if dual_attention_layers else None,
        dual_attention_layers=dual_attention_layers,
    )
    return StableDiffusion3Pipeline(
        transformer=perturb(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=flow_vae(),
        text_encoder=perturb(CLIPTextModelWithProjection(config), seed + 1),
        tokenizer=tokenizer,
        text_encoder_2=perturb(CLIPTextModelWithProjection(config), seed + 2),
        tokenizer_2=tokenizer,
        text_encoder_3=_wide_t5(seed) if t5 else None,
        tokenizer_3=tiny_t5_tokenizer() if t5 else None,
    )


def _wide_t5(seed: int) -> T5EncoderModel:
    """As wide as the two CLIP encoders together are padded to."""
    config = T5Config(
        vocab_size=len(tiny_t5_tokenizer()),
        d_model=2 * TEXT_DIM,
        d_kv=8,
        d_ff=2 * TEXT_DIM,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return perturb(T5EncoderModel(config), seed + 3)


def tiny_flux(folder: Path, seed: int = 0, distilled: bool = True) -> FluxPipeline:
    """A random FLUX.1 pipeline: dev, or schnell, which reads no guidance."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(folder)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * FLOW_CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        transformer=perturb(transformer, seed),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if distilled else 1.0, use_dynamic_shifting=distilled
        ),
        vae=flow_vae(),
        text_encoder=perturb(CLIPTextModel(clip_text_config(tokenizer)), seed + 1),
        tokenizer=tokenizer,
        text_encoder_2=tiny_t5(),
        tokenizer_2=tiny_t5_tokenizer(),
    )
