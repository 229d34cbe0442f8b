"""Writes ONNX engines of a denoiser, and changes their weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from safediff.errors import Inconclusive, UsageError, first_line
from safediff.export.engine_files import (
    CONFIG_NAME,
    DTYPES,
    MODEL_NAME,
    Precision,
    cast_to,
    is_engine,
    load_model,
    prefix_of,
    save_model,
    slots_of,
)
from safediff.export.graph import build_graph
from safediff.export.int8 import is_int8
from safediff.export.int8_weights import holds_int8_weights
from safediff.export.on_cpu import on_cpu
from safediff.export.quiet import quiet
from safediff.folders import new_folder

BF16_OPSET = 22
"""Convolutions have no bf16 before: ONNX Runtime refuses such a graph, TensorRT reads it."""


def export_denoiser(
    denoiser: Any,
    folder: Path,
    *,
    opset: int = 18,
    precision: Precision = "fp32",
    num_tokens: int = 77,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Export one of diffusers' networks that ``signature`` describes.

    A UNet's inputs: ``sample`` (b, c, h, w), ``timestep`` (0-d, float32),
    ``encoder_hidden_states`` (b, num_tokens, dim); SDXL also ``text_embeds`` (b, dim) and
    ``time_ids`` (b, 6). Output: ``out_sample``, shape of ``sample``. Batch, height and width are
    dynamic, of transformers also the number of tokens; ``Signature.sides`` limits the sizes.

    Args:
        denoiser: Is not changed; a cast copy is exported where the precision differs.
        folder: The engine folder to write; an earlier engine there is replaced.
        opset: 18 runs everywhere; 23 has group normalisation and GELU as one node each. Attention
            is written in the same few in both (``operators``).
        precision: Type of weights, latents and texts; times and scales are float32.
        num_tokens: Length of the text encoder's window.
        metadata: Stored in the graph, for example hashes of the weights.

    Returns:
        Path of the written ``model.onnx``.

    Raises:
        UsageError: the network is of another kind, or ``folder`` is something else.
        Inconclusive: the exporter failed, or the folder can't be written.
    """
    with new_folder(folder, is_engine, "an engine folder") as temporary:
        try:
            with quiet():
                model = build_graph(on_cpu(denoiser, DTYPES[precision]), opset, num_tokens)
        except (UsageError, OSError):
            raise
        except Exception as error:
            raise Inconclusive(
                f"{folder}: the {type(denoiser).__name__} could not be exported: "
                f"{type(error).__name__}: {first_line(error)}",
                "run `safediff doctor` and compare the versions with the supported ones",
            ) from error
        model.metadata_props.update(metadata or {})
        save_model(model, temporary)
        _save_config(denoiser, temporary)
    return folder / MODEL_NAME


def swap_weights(
    src: Path, dst: Path, state_dict: Mapping[str, Tensor], *, metadata: Mapping[str, str]
) -> Path:
    """Write the engine of folder ``src`` with other weights to folder ``dst``, in seconds.

    Args:
        src: An engine folder.
        dst: The engine folder to write; not ``src``, whose data is read while ``dst`` is written.
        state_dict: The whole state of the network; cast to the engine's precision.
        metadata: Takes the place of the metadata of ``src``, which spoke of other weights.

    Returns:
        Path of the written ``model.onnx``.

    Raises:
        UsageError: names or shapes differ from the graph's, or ``dst`` is ``src``.
        Inconclusive: ``src`` can't be read or ``dst`` can't be written.
    """
    if dst.absolute() == src.absolute():
        raise UsageError(f"{dst}: is the engine that is read", "write to another folder")
    model = load_model(src / MODEL_NAME)
    if is_int8(model) or holds_int8_weights(model):
        raise UsageError(
            f"{src}: is an int8 engine, whose scales belong to its weights",
            "swap into the fp32 engine and quantise that (--precision int8)",
        )
    prefix = prefix_of(model)
    slots = slots_of(model, state_dict, src / MODEL_NAME, prefix)
    for name, slot in slots.items():
        assert slot.const_value is not None
        tensor = state_dict[name.removeprefix(prefix)]
        new = TorchTensor(cast_to(tensor, slot), name=name)
        if tuple(new.shape) != tuple(slot.const_value.shape):
            raise UsageError(
                f"{name}: the weights have shape {tuple(new.shape)}, the engine has "
                f"{tuple(slot.const_value.shape)}",
                "export an engine of this architecture",
            )
        slot.const_value = new
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    with new_folder(dst, is_engine, "an engine folder") as temporary:
        save_model(model, temporary)
        shutil.copyfile(src / CONFIG_NAME, temporary / CONFIG_NAME)
    return dst / MODEL_NAME


def _save_config(denoiser: Any, folder: Path) -> None:
    config = json.loads(denoiser.to_json_string())
    config.pop("_name_or_path", None)  # where the base lay on the machine that exported
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
