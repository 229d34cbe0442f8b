"""Whose weights an ONNX engine holds: proofs and hashes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import to_torch_dtype
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.export.engine_files import (
    DTYPES,
    Precision,
    bytes_of,
    cast_to,
    load_model,
    prefix_of,
    slots_of,
)
from safediff.export.int8 import is_int8, verify_int8_identity
from safediff.export.int8_weights import holds_int8_weights, verify_weights_identity
from safediff.models.patch import state_sha256

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def verify_identity(
    model_path: Path, state_dict: Mapping[str, Tensor], prefix: str | None = None
) -> None:
    """Prove that an engine computes with exactly these weights, cast to its precision.

    Of an int8 engine: with what quantising these weights gives.

    Args:
        model_path: ``model.onnx``.
        state_dict: The whole state.
        prefix: Of the parameters' names; None: that of the denoiser in the graph.

    Raises:
        UsageError: the names differ from the engine's.
        Inconclusive: a weight differs or is not used, or the engine can't be read.
    """
    model = load_model(model_path)
    if holds_int8_weights(model):
        verify_weights_identity(model_path, model, state_dict)
        return
    if is_int8(model):
        verify_int8_identity(model_path, model, state_dict)
        return
    prefix = prefix_of(model) if prefix is None else prefix
    for name, slot in slots_of(model, state_dict, model_path, prefix).items():
        assert slot.const_value is not None
        expected = cast_to(state_dict[name.removeprefix(prefix)], slot)
        shape = tuple(slot.const_value.shape)
        if not slot.uses():
            raise _foreign(f"{model_path}: holds {name} but does not compute with it")
        if shape != tuple(expected.shape) or not _same_bytes(slot.const_value, expected):
            raise _foreign(f"{model_path}: {name} differs from the weights it should hold")


def _same_bytes(stored: ir.TensorProtocol, expected: Tensor) -> bool:
    """Compared as whole numbers of one size: equal where, and only where, all bytes are."""
    size = expected.element_size()
    numbers = np.frombuffer(bytes_of(stored), f"i{size}")
    return np.array_equal(numbers, expected.reshape(-1).view(_WHOLE[size]).numpy())


def initializers_sha256(model_path: Path) -> str:
    """``state_sha256`` of the weights in an engine; of an fp32 one it is that of its network.

    Raises:
        Inconclusive: the engine can't be read.
    """
    return tensor_sha256(model_path)


def tensor_sha256(model_path: Path, prefix: str | None = None) -> str:
    """``state_sha256`` of the initializers of a prefix, the denoiser's if none is given.

    Raises:
        Inconclusive: the model can't be read.
    """
    model = load_model(model_path)
    prefix = prefix_of(model) if prefix is None else prefix
    return state_sha256(_Stored(model, prefix))


class _Stored(Mapping[str, Tensor]):
    """The weights in a graph, each read when it is asked for: together they may fill the memory."""

    def __init__(self, model: ir.Model, prefix: str) -> None:
        self._values = {
            name.removeprefix(prefix): value.const_value
            for name, value in model.graph.initializers.items()
            if name.startswith(prefix) and value.const_value is not None
        }

    def __getitem__(self, name: str) -> Tensor:
        stored = self._values[name]
        data = bytearray(bytes_of(stored))
        tensor = torch.frombuffer(data, dtype=to_torch_dtype(stored.dtype))
        return tensor.reshape(stored.shape.numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read_precision(model_path: Path) -> Precision:
    """The precision that an engine computes in.

    Raises:
        Inconclusive: the engine can't be read, or is of another type.
    """
    model = load_model(model_path)
    if holds_int8_weights(model):
        return "int8-weights"
    if is_int8(model):
        return "int8"
    dtype = model.graph.inputs[0].dtype
    for name, known in DTYPES.items():
        if dtype is not None and to_torch_dtype(dtype) == known:
            return name
    raise Inconclusive(f"{model_path}: computes in {dtype}, expected {' or '.join(DTYPES)}")


def _foreign(message: str) -> Inconclusive:
    return Inconclusive(message, "export the engine again from the weights that were verified")
