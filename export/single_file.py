"""One .safetensors file with the original names of SD 1.x or SDXL, for other front ends.

The names are those of the first checkpoints: ``model.diffusion_model.*``, ``first_stage_model.*``
and ``cond_stage_model.transformer.*``, which in SDXL is ``conditioner.embedders.0.transformer.*``;
its second text encoder is OpenCLIP's, ``conditioner.embedders.1.model.*``. diffusers reads such
files; it has no writer for them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.models.backbone import Backbone
from safediff.models.patch import save_whole

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
XL_TEXT, XL_TEXT_2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

OPEN_CLIP_WIDTH = 1024
"""Of the text encoder of Stable Diffusion 2.x, whose original is OpenCLIP's."""
FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
"""Where a diffusers folder has the weights that go into a single file."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_TOP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def write_single_file(path: Path, model: Backbone) -> Path:
    """Write UNet, autoencoder and text encoders into one checkpoint.

    Raises:
        Inconclusive: a tensor has no original name (another family), the network does not predict
            noise, or the file can't be written.
    """
    _require_noise(model)
    save_whole(original_state(model), path, {"format": "pt"})
    return path


def _require_noise(model: Backbone) -> None:
    """The file can't say what the network predicts, and readers take it to be the noise."""
    if model.prediction_type != "epsilon":
        raise Inconclusive(
            f"{model.name}: predicts {model.prediction_type}, which a single file can't say: front "
            "ends would draw noise",
            "leave out --layout single-file for this model",
        )


class Network(NamedTuple):
    """What of a network its original names are made from."""

    config: Mapping[str, Any]
    state: Mapping[str, Tensor]


def original_state(model: Backbone) -> dict[str, Tensor]:
    """All tensors by their original names.

    Raises:
        Inconclusive: a tensor has none.
    """
    parts = model.components()
    return renamed(
        {
            name: Network(_plain(parts[name].config), parts[name].state_dict())
            for name in FILES
            if name in parts
        }
    )


def _plain(config: Any) -> Mapping[str, Any]:
    """A configuration as a mapping, which those of transformers are not."""
    found: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    return found


def renamed(networks: Mapping[str, Network]) -> dict[str, Tensor]:
    """All tensors by their original names.

    Args:
        networks: By the names of their folders; a second text encoder is SDXL's.

    Raises:
        Inconclusive: a tensor has none.
    """
    unet, vae, text = (networks[name] for name in ("unet", "vae", "text_encoder"))
    second = networks.get("text_encoder_2")
    if text.config.get("hidden_size") == OPEN_CLIP_WIDTH and second is None:
        raise Inconclusive(
            "the text encoder of Stable Diffusion 2.x has other names in its original form",
            "leave out --layout single-file for this family",
        )
    attends = ["CrossAttn" in block for block in unet.config["up_block_types"]]
    state: dict[str, Tensor] = {}
    for key, tensor in unet.state.items():
        state[UNET + unet_name(key, unet.config["layers_per_block"], attends)] = tensor
    for key, tensor in vae.state.items():
        name = vae_name(key, len(vae.config["block_out_channels"]))
        is_matrix = ".attn_1." in name and name.endswith("weight") and tensor.ndim == 2
        state[VAE + name] = tensor[:, :, None, None] if is_matrix else tensor
    first = TEXT if second is None else XL_TEXT
    state |= {first + name: tensor for name, tensor in _text_state(text.state).items()}
    if second is not None:
        tower = open_clip_state(second.state)
        state |= {XL_TEXT_2 + name: tensor for name, tensor in tower.items()}
    return state


def _text_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of checkpoints: transformers 5 dropped the level ``text_model``."""
    return {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in state.items()}


def open_clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's text tower: queries, keys and values in one matrix, the projection turned.

    Args:
        state: Of a ``CLIPTextModelWithProjection``.

    Raises:
        Inconclusive: the original has no such parameter.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("text_model.")
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif name in _OPEN_CLIP_TOP:
            found[_OPEN_CLIP_TOP[name]] = tensor
        elif layer is None:
            raise _unknown(key)
        elif layer[2] == "self_attn.q_proj":
            three = [state[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            part = f"attn.in_proj_{layer[3]}"
            found[f"transformer.resblocks.{layer[1]}.{part}"] = torch.cat(three)
        elif layer[2] in _OPEN_CLIP_LAYER:
            part = f"{_OPEN_CLIP_LAYER[layer[2]]}.{layer[3]}"
            found[f"transformer.resblocks.{layer[1]}.{part}"] = tensor
        elif layer[2] not in ("self_attn.k_proj", "self_attn.v_proj"):
            raise _unknown(key)
    return found


def unet_name(key: str, num_layers: int, attends: Sequence[bool]) -> str:
    """The original name of a UNet parameter.

    Args:
        key: Its name in diffusers.
        num_layers: ``layers_per_block``.
        attends: Which of the blocks on the way up have attention.

    Raises:
        Inconclusive: the original has no such parameter.
    """
    for ours, theirs in _UNET_TOP.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        kind, index, rest = found[1], int(found[2]), found[3]
        number = 2 * index if kind == "resnets" else 1
        return f"middle_block.{number}.{_inner(kind, rest)}"
    pattern = r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
    if (found := re.fullmatch(pattern, key)) is None:
        raise _unknown(key)
    way, level, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if way == "down":
        first = 1 + level * (num_layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + num_layers}.0.op.{rest.removeprefix('conv.')}"
        place = f"input_blocks.{first + index}.{int(kind == 'attentions')}"
        return f"{place}.{_inner(kind, rest)}"
    last = level * (num_layers + 1)
    if kind == "upsamplers":
        number = 2 if attends[level] else 1  # after the attention, where there is one
        return f"output_blocks.{last + num_layers}.{number}.{rest}"
    place = f"output_blocks.{last + index}.{int(kind == 'attentions')}"
    return f"{place}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    part, _, leaf = rest.rpartition(".")
    if part not in _RESNET:
        raise _unknown(rest)
    return f"{_RESNET[part]}.{leaf}"


def vae_name(key: str, num_levels: int) -> str:
    """The original name of a parameter of the autoencoder.

    Raises:
        Inconclusive: the original has no such parameter.
    """
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", key):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(\w+)", key):
        if found[2] not in _ATTENTION:
            raise _unknown(key)
        return f"{found[1]}.mid.attn_1.{_ATTENTION[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", key):
        return f"encoder.down.{found[1]}.block.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.(.+)", key):
        return f"encoder.down.{found[1]}.downsample.{found[2]}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.(.+)", key):
        return f"decoder.up.{num_levels - 1 - int(found[1])}.block.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.(.+)", key):
        return f"decoder.up.{num_levels - 1 - int(found[1])}.upsample.{found[2]}"
    if re.fullmatch(r"(encoder|decoder)\.(conv_in|conv_out|norm_out)\.\w+", key) or re.fullmatch(
        r"(post_)?quant_conv\.\w+", key
    ):
        return key
    raise _unknown(key)


def _unknown(key: str) -> Inconclusive:
    return Inconclusive(
        f"{key}: has no name in the original form of Stable Diffusion 1.x or XL",
        "leave out --layout single-file for this family",
    )
