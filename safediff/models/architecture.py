"""What a pipeline is made of, from its configuration files or header; no weights are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive
from safediff.models.original_layout import channels_of, kind_of, read_shapes, unet_form
from safediff.policy.plan import ModelPlan

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Configurations of the parts, as diffusers and transformers write them."""

    unet: Config
    vae: Config
    text_encoders: tuple[Config, ...]

    @property
    def decodes_in_float32(self) -> bool:
        """``Backbone.decodes_in_float32``: of SDXL, unless its autoencoder says otherwise."""
        is_xl = self.unet.get("addition_embed_type") == "text_time"
        return is_xl and bool(self.vae.get("force_upcast", True))  # diffusers' default


_VAE: Config = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}


def _clip(width: int, num_layers: int, num_heads: int) -> Config:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }


_LARGE = _clip(768, 12, 12)
SD1 = Architecture(
    unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae=_VAE,
    text_encoders=(_LARGE,),
)
SD2 = Architecture(
    unet={
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    vae=_VAE,
    text_encoders=(_clip(1024, 23, 16),),
)
SDXL = Architecture(
    unet={
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae=_VAE,
    text_encoders=(_LARGE, _clip(1280, 32, 20)),
)
_OWNERS_OF_2 = ("stabilityai", "sd2-community")


def _at(architecture: Architecture, sample_size: int) -> Architecture:
    """The same at another size of the latents."""
    return replace(architecture, unet={**architecture.unet, "sample_size": sample_size})


KNOWN = {
    "compvis/stable-diffusion-v1": SD1,
    "runwayml/stable-diffusion-v1": SD1,
    "stable-diffusion-v1-5/stable-diffusion-v1": SD1,
    **dict.fromkeys((f"{owner}/stable-diffusion-2" for owner in _OWNERS_OF_2), SD2),
    **dict.fromkeys(
        (
            f"{owner}/stable-diffusion-{name}"
            for owner in _OWNERS_OF_2
            for name in ("2-base", "2-1-base")
        ),
        _at(SD2, 64),
    ),
    "stabilityai/sd-turbo": _at(SD2, 64),
    "stabilityai/stable-diffusion-xl-base": SDXL,
    "stabilityai/sdxl-turbo": _at(SDXL, 64),
}
"""By how hub ids begin; the longest that fits counts."""
SINGLE_FILES = {
    (320, 768, 16): SD1,
    (320, 1024, 16): SD2,
    (320, 2048, 70): SDXL,
}
"""By the form of a file's UNet. Files do not say how large their pictures are: taken to be
the largest of the family, 768 px for 2.x and 1024 px for SDXL."""
DISTILLED = ("FluxPipeline",)
"""Pipelines whose models take one pass a step, guided or not (``Backbone.distilled_guidance``)."""
_DISTILLED_HUB = ("black-forest-labs/flux.1",)


def find_architecture(model: ModelPlan) -> Architecture | None:
    """Of a folder (a single file's ``config``), a single file or a known hub id.

    None: the weights would tell.

    Raises:
        Inconclusive: a configuration file or a checkpoint is damaged.
    """
    folder = Path(model.config or model.base)
    if (folder / "unet" / "config.json").exists():
        encoders = sorted(folder.glob("text_encoder*/config.json"))
        return Architecture(
            unet=_read(folder / "unet" / "config.json"),
            vae=_read(folder / "vae" / "config.json"),
            text_encoders=tuple(map(_read, encoders)),
        )
    if Path(model.base).is_file():
        return _of_file(Path(model.base))
    starts = [start for start in KNOWN if model.base.lower().startswith(start)]
    return KNOWN[max(starts, key=len)] if starts else None


def guidance_is_distilled(model: ModelPlan) -> bool:
    """Whether a diffusers folder or a known hub id is of a family that takes one pass a step.

    Raises:
        Inconclusive: a configuration file is damaged.
    """
    index = Path(model.base) / "model_index.json"
    if index.exists():
        return _read(index).get("_class_name") in DISTILLED
    return model.base.lower().startswith(_DISTILLED_HUB)


def _of_file(path: Path) -> Architecture | None:
    shapes = read_shapes(path)
    form, (reads, answers) = unet_form(shapes), channels_of(shapes)
    if form is None or reads != answers:
        return None
    found = SINGLE_FILES.get(form)
    return found if (found is SDXL) == (kind_of(shapes) == "sdxl") else None


def _read(path: Path) -> Config:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Inconclusive(f"{path}: cannot be read ({error})", "check the model folder") from error
    if not isinstance(config, dict):
        raise Inconclusive(f"{path}: is no configuration", "check the model folder")
    return config
