"""The files of an ONNX engine: their names, and how they are read and written.

An engine folder holds ``model.onnx``, ``model.onnx.data`` and ``config.json`` (the network's own,
as diffusers writes it). Every parameter is an initializer named ``unet.<state dict key>``, of a
transformer ``transformer.<state dict key>``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import to_torch_dtype
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export.signature import PREFIXES

MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
CONFIG_NAME = "config.json"
ENGINE_FILES = frozenset({MODEL_NAME, DATA_NAME, CONFIG_NAME})

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights"]
QUANTIZED_PRECISIONS: tuple[Precision, ...] = ("int8", "int8-weights")
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""Types that a network is traced in; int8 engines are made of an fp32 one."""


def is_engine(folder: Path) -> bool:
    """Whether the folder holds an engine and nothing else."""
    return {path.name for path in folder.iterdir()} == ENGINE_FILES


def read_opset(model_path: Path) -> int:
    """The ONNX opset of an engine.

    Raises:
        Inconclusive: the engine can't be read.
    """
    return int(load_model(model_path).opset_imports.get("", 0))


def read_metadata(model_path: Path) -> dict[str, str]:
    """The metadata that ``export_denoiser`` stored.

    Raises:
        Inconclusive: the engine can't be read.
    """
    return dict(load_model(model_path).metadata_props)


def load_model(path: Path) -> ir.Model:
    """The graph of a ``model.onnx``; its weights are read when they are asked for.

    Raises:
        Inconclusive: there is none, or it can't be read.
    """
    if not path.is_file():
        raise Inconclusive(f"{path}: no such engine", "export it first")
    try:
        return ir.load(path)
    except Exception as error:
        raise Inconclusive(
            f"{path}: not a readable ONNX file ({type(error).__name__})", "export it again"
        ) from error


def save_model(model: ir.Model, folder: Path) -> None:
    """Write ``model.onnx`` and its data."""
    ir.save(model, folder / MODEL_NAME, external_data=DATA_NAME)


def prefix_of(model: ir.Model) -> str:
    """What the names of the denoiser's parameters begin with."""
    names = model.graph.initializers
    found = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in names)]
    return found[0] if found else PREFIXES[0]


def slots_of(
    model: ir.Model, state: Mapping[str, Tensor], path: Path, prefix: str
) -> dict[str, ir.Value]:
    """The initializers of a state's parameters, by their names in the graph.

    Raises:
        UsageError: the names differ.
    """
    slots = {n: v for n, v in model.graph.initializers.items() if n.startswith(prefix)}
    differing = slots.keys() ^ {prefix + key for key in state}
    if differing:
        raise UsageError(
            f"{path}: {len(differing)} parameter names differ from those of the weights, "
            f"first {min(differing)}",
            "export an engine of this architecture",
        )
    return slots


def cast_to(tensor: Tensor, slot: ir.Value) -> Tensor:
    """A weight in the type of its initializer."""
    assert slot.dtype is not None
    return tensor.detach().to("cpu", to_torch_dtype(slot.dtype)).contiguous()


def bytes_of(tensor: ir.TensorProtocol) -> bytes:
    """What a weight in a graph is stored as.

    Raises:
        Inconclusive: its data can't be read.
    """
    try:
        return tensor.tobytes()
    except (OSError, ValueError) as error:  # external data is read here, not when loading
        raise Inconclusive(
            f"{tensor.name}: its data can't be read ({error})", "export the engine again"
        ) from error
