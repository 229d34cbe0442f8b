"""Weight-only int8: matrices and kernels are stored as int8, computed with as float32.

The weight ``unet.X`` becomes ``unet.X_quantized`` (int8, same shape) with ``unet.X_scale``
(float32, one an output channel) and a DequantizeLinear that is computed once, when the engine is
opened: w = q * scale. A quarter of the file for the speed and memory of fp32. Norms, biases and
small tensors stay as they are.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import CONFIG_NAME, DATA_NAME, MODEL_NAME, is_engine
from safediff.export.int8 import (
    DEQUANTIZE,
    LEVELS,
    QUANTIZED,
    SCALE,
    SCALE_TOLERANCE,
    add_initializer,
)
from safediff.export.signature import UNET_PREFIX
from safediff.folders import new_folder

MIN_SIZE = 1024
"""Elements; below it nothing is gained."""


def quantize_weights(source: Path, folder: Path, metadata: Mapping[str, str]) -> Path:
    """Write the weight-only int8 engine of an fp32 engine folder.

    Args:
        source: Engine folder of ``export_denoiser`` in fp32.
        folder: The engine folder to write; an earlier engine there is replaced.
        metadata: Stored in the graph.

    Returns:
        Path of the written ``model.onnx``.

    Raises:
        UsageError: ``folder`` is something else.
        Inconclusive: the source can't be read.
    """
    with new_folder(folder, is_engine, "an engine folder") as temporary:
        try:
            model = ir.load(source / MODEL_NAME)
        except Exception as error:
            raise Inconclusive(
                f"{source}: not a readable engine ({type(error).__name__})", "export it again"
            ) from error
        for value in list(model.graph.initializers.values()):
            if _is_quantized(value):
                _replace(model.graph, value)
        model.metadata_props.clear()
        model.metadata_props.update(metadata)
        ir.save(model, temporary / MODEL_NAME, external_data=DATA_NAME)
        shutil.copyfile(source / CONFIG_NAME, temporary / CONFIG_NAME)
    return folder / MODEL_NAME


def _is_quantized(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        tensor is not None
        and str(value.name).startswith(UNET_PREFIX)
        and tensor.dtype == ir.DataType.FLOAT
        and to_quantize(tuple(tensor.shape.numpy()))
    )


def to_quantize(shape: tuple[int, ...]) -> bool:
    """Whether a weight of this shape is stored as int8."""
    return len(shape) in (2, 4) and int(np.prod(shape)) >= MIN_SIZE


def _replace(graph: ir.Graph, value: ir.Value) -> None:
    """A weight by its int8 form and the node that makes it float again."""
    assert value.const_value is not None
    assert value.name is not None
    name, shape = value.name, value.shape
    q, scale = int8_channels(value.const_value.numpy())
    del graph.initializers[name]
    stored = [
        add_initializer(graph, name + QUANTIZED, q),
        add_initializer(graph, name + SCALE, scale),
    ]
    node = ir.node(DEQUANTIZE, stored, attributes={"axis": 0}, name=f"{name}_dequantize")
    output = node.outputs[0]
    output.name, output.shape, output.type = (
        f"{name}_float",
        shape,
        ir.TensorType(ir.DataType.FLOAT),
    )
    ir.convenience.replace_all_uses_with(value, output)
    graph.insert_before(graph[0], node)


def int8_channels(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight (out, ...) as q of its shape and scale (out,): w = q * scale, |q| <= 127."""
    rows = weight.reshape(len(weight), -1)
    largest = np.abs(rows).max(axis=1)
    scale = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
    q = np.clip(np.rint(rows / scale[:, None]), -LEVELS, LEVELS).astype(np.int8)
    return q.reshape(weight.shape), scale


def holds_int8_weights(model: ir.Model) -> bool:
    """Whether a graph was written by ``quantize_weights``."""
    return any(
        node.op_type == DEQUANTIZE
        and str(node.inputs[0] and node.inputs[0].name).endswith(QUANTIZED)
        for node in model.graph
    )


def verify_weights_identity(path: Path, model: ir.Model, state: Mapping[str, Tensor]) -> None:
    """Prove that such an engine holds these weights: quantised anew they give the same bytes.

    Raises:
        UsageError: the names differ from the engine's.
        Inconclusive: a weight differs, its scale is not that of its channel, or it is not used.
    """
    stored = model.graph.initializers
    found = {
        n.removeprefix(UNET_PREFIX).removesuffix(QUANTIZED): v
        for n, v in stored.items()
        if n.startswith(UNET_PREFIX) and not n.endswith(SCALE)
    }
    if differing := found.keys() ^ state.keys():
        raise UsageError(
            f"{path}: {len(differing)} parameter names differ from those of the weights, first "
            f"{min(differing)}",
            "export an engine of this architecture",
        )
    for key, value in found.items():
        weight = state[key].detach().to("cpu").float().numpy()
        if not value.uses() or not _same(stored, UNET_PREFIX + key, value, weight):
            raise Inconclusive(
                f"{path}: {value.name} differs from the weights it should hold, or is not used",
                "export the engine again from the weights that were verified",
            )


def _same(
    stored: Mapping[str, ir.Value], name: str, value: ir.Value, weight: NDArray[np.float32]
) -> bool:
    assert value.const_value is not None
    array = value.const_value.numpy()
    if not str(value.name).endswith(QUANTIZED):
        return not to_quantize(weight.shape) and np.array_equal(array, weight)
    scale = stored[name + SCALE].const_value if name + SCALE in stored else None
    if scale is None or array.shape != weight.shape or not np.isfinite(weight).all():
        return False
    (node,) = {usage.node for usage in value.uses()}
    read = [v.name if v is not None else None for v in node.inputs]
    if node.op_type != DEQUANTIZE or read != [name + QUANTIZED, name + SCALE]:
        return False
    q, wanted = int8_channels(weight)
    same_scale = np.abs(scale.numpy() - wanted) <= SCALE_TOLERANCE * wanted
    return bool(same_scale.all()) and np.array_equal(array, q)
