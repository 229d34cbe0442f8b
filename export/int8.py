"""int8 engines for CPUs: the linear layers' weights in int8, activations quantised at run time.

ONNX Runtime's ``quantize_dynamic`` does the work, per output channel and symmetric. The weight of
``unet.X`` becomes ``unet.X_quantized`` (int8, transposed: in, out) with ``unet.X_scale`` (float32,
one an output channel): w = q * scale. Convolutions, norms, biases and the matrices that calibration
leaves alone keep name and value.
"""

import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from safediff.errors import Inconclusive, UsageError, first_line
from safediff.export.engine_files import CONFIG_NAME, DATA_NAME, MODEL_NAME, is_engine
from safediff.export.signature import UNET_PREFIX
from safediff.folders import new_folder

QUANTIZED, SCALE = "_quantized", "_scale"
DEQUANTIZE, PRODUCT = "DequantizeLinear", "MatMulInteger"
_OWN_SUFFIX = "_Transposed"  # the quantiser's, on weights that it turned itself
LEVELS = 127
"""Steps on either side of zero."""
SCALE_TOLERANCE = 1e-5
"""Relative; the scale is a float32 quotient of the largest weight of its channel."""


def quantize_engine(
    source: Path, folder: Path, metadata: Mapping[str, str], kept: Collection[str] = ()
) -> Path:
    """Write the int8 engine of an fp32 engine folder.

    Args:
        source: Engine folder of ``export_denoiser`` in fp32.
        folder: The engine folder to write; an earlier engine there is replaced.
        metadata: Stored in the graph.
        kept: Names of weights, as in the UNet's state, that stay fp32 (``calibration``).

    Returns:
        Path of the written ``model.onnx``.

    Raises:
        UsageError: ``folder`` is something else.
        Inconclusive: the source can't be read or quantised.
    """
    with new_folder(folder, is_engine, "an engine folder") as temporary:
        try:
            with tempfile.TemporaryDirectory() as work, _without_advice():
                _quantize(source, Path(work), temporary, metadata, kept)
        except OSError:
            raise
        except Exception as error:
            raise Inconclusive(
                f"{source}: could not be quantised: {type(error).__name__}: {first_line(error)}",
                "export the fp32 engine again",
            ) from error
        shutil.copyfile(source / CONFIG_NAME, temporary / CONFIG_NAME)
    return folder / MODEL_NAME


def _quantize(
    source: Path, work: Path, folder: Path, metadata: Mapping[str, str], kept: Collection[str]
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = ir.load(source / MODEL_NAME)
    names = {UNET_PREFIX + key for key in kept}
    _transpose_weights(model, names)
    ir.save(model, work / MODEL_NAME, external_data=DATA_NAME)
    # its data takes the same name, which ONNX wants to be free in the current folder as well
    written = work / f"{work.name}.onnx"
    quantize_dynamic(
        work / MODEL_NAME,
        written,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_nodes_with(model, names),
        use_external_data_format=True,  # one file holds 2 GiB at most, and SD 1.x has more
        extra_options={"WeightSymmetric": True},
    )
    quantized = ir.from_proto(onnx.load(written))
    for value in list(quantized.graph.initializers.values()):
        assert value.name is not None
        value.name = value.name.replace(_OWN_SUFFIX, "")
    quantized.metadata_props.clear()
    quantized.metadata_props.update(metadata)
    ir.save(quantized, folder / MODEL_NAME, external_data=DATA_NAME)


def _nodes_with(model: ir.Model, names: Collection[str]) -> list[str]:
    """Products that read one of these weights themselves, instead of its transposition.

    Of a Gemm the quantiser makes a product of its own, which it names so.
    """
    made = {"MatMul": "", "Gemm": "_MatMul"}
    return [
        f"{node.name}{made[node.op_type]}"
        for node in model.graph
        if node.op_type in made and any(v is not None and v.name in names for v in node.inputs)
    ]


def _transpose_weights(model: ir.Model, kept: Collection[str]) -> None:
    """Weights that only a Transpose reads take its place: the quantiser wants them as constants.

    Those that stay fp32 are left as they lie, which is also what keeps the quantiser off them.
    """
    graph = model.graph
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not weight.is_initializer() or len(weight.uses()) != 1:
            continue
        if weight.name in kept:
            continue
        assert weight.const_value is not None
        assert weight.name is not None
        array = np.ascontiguousarray(weight.const_value.numpy().T)
        name, output = weight.name, node.outputs[0]
        del graph.initializers[name]
        value = add_initializer(graph, name, array)
        ir.convenience.replace_all_uses_with(output, value)
        graph.remove(node, safe=True)


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A constant of that name, added to the graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
    )
    graph.register_initializer(value)
    return value


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantiser recommends a preparation on the root logger; the graph has had its own."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def is_int8(model: ir.Model) -> bool:
    """Whether a graph holds weights that ``quantize_engine`` wrote."""
    return any(
        n.startswith(UNET_PREFIX) and n.endswith(QUANTIZED) for n in model.graph.initializers
    )


def verify_int8_identity(path: Path, model: ir.Model, state: Mapping[str, Tensor]) -> None:
    """Prove that an int8 engine computes with these weights: quantised anew they give its bytes.

    w = q * scale holds where the zero point is 0, so it must be wherever q is read.

    Raises:
        UsageError: the names differ from the engine's.
        Inconclusive: a weight differs or is not used, its scale is not that of its channel, or its
            zero point is not 0.
    """
    found: dict[str, None] = {}
    for name, value in model.graph.initializers.items():
        key = _key(name)
        if key is None or value.const_value is None:
            continue
        if key not in state:
            raise UsageError(
                f"{path}: holds {name}, which the weights lack",
                "export an engine of this architecture",
            )
        weight = state[key].detach().to("cpu", torch.float32).numpy()
        if name.endswith(QUANTIZED):
            scale = model.graph.initializers.get(name.removesuffix(QUANTIZED) + SCALE)
            used = scale is not None and bool(scale.uses()) and _reads_plainly(value)
            same = scale is not None and _same_int8(_array(value), _array(scale), weight)
        else:
            used = bool(value.uses())
            expected = weight.T if _is_turned(value) else weight
            same = np.array_equal(value.const_value.numpy(), expected)
        if not used:
            raise _foreign(f"{path}: holds {name} but does not compute with it as it is")
        if not same:
            raise _foreign(f"{path}: {name} differs from the weights it should hold")
        found[key] = None
    lacking = state.keys() - found
    if lacking:
        raise UsageError(
            f"{path}: {len(lacking)} weights are not in the engine, first {min(lacking)}",
            "export an engine of this architecture",
        )


def _foreign(message: str) -> Inconclusive:
    return Inconclusive(message, "export the engine again from the weights that were verified")


def _reads_plainly(q: ir.Value) -> bool:
    """Whether products read an int8 weight, each as their second factor with zero point 0."""
    uses = q.uses()
    return bool(uses) and all(
        node.op_type == PRODUCT and at == 1 and _is_zero(node.inputs[3:4]) for node, at in uses
    )


def _is_turned(weight: ir.Value) -> bool:
    """Whether products read a matrix itself as their second factor, as x W^T needs it: turned.

    Where it lies as the layer has it, a Transpose or a Gemm reads it.
    """
    uses = weight.uses()
    return bool(uses) and all(node.op_type == "MatMul" and at == 1 for node, at in uses)


def _is_zero(zero_points: Sequence[ir.Value | None]) -> bool:
    """An input that is left out is 0; one that is computed is not known."""
    (zero,) = zero_points or (None,)
    return zero is None or (zero.const_value is not None and not _array(zero).any())


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    found: NDArray[Any] = value.const_value.numpy()
    return found


def read_weight(model: ir.Model, key: str) -> NDArray[np.float64] | None:
    """The weight that a graph computes with under a key of the UNet's state: q * scale in int8.

    None where the graph has none under that name.
    """
    stored, name = model.graph.initializers, UNET_PREFIX + key
    if (plain := stored.get(name)) is not None:
        return None if plain.const_value is None else plain.const_value.numpy().astype(np.float64)
    q, scale = stored.get(name + QUANTIZED), stored.get(name + SCALE)
    if q is None or scale is None or q.const_value is None or scale.const_value is None:
        return None
    levels, steps = q.const_value.numpy(), scale.const_value.numpy()
    if any(node.op_type == DEQUANTIZE for node, _ in q.uses()):  # a scale for each row
        weight = levels * steps.reshape(-1, *(1,) * (levels.ndim - 1))
    else:
        weight = (levels * steps).T
    found: NDArray[np.float64] = weight.astype(np.float64)
    return found


def _key(name: str) -> str | None:
    """Which parameter an initializer is made of; None for scales, zero points and constants."""
    if not name.startswith(UNET_PREFIX) or name.endswith((SCALE, "_zero_point")):
        return None
    return name.removeprefix(UNET_PREFIX).removesuffix(QUANTIZED)


def _same_int8(
    q: NDArray[np.int8], scale: NDArray[np.float32], weight: NDArray[np.float32]
) -> bool:
    if q.shape != weight.T.shape or not np.isfinite(weight).all():
        return False
    expected, wanted = int8_weights(weight)
    steps = np.abs(weight.T / wanted)
    # so near the middle between two steps that rounding may go either way
    tied = np.abs(steps - np.floor(steps) - 0.5) < LEVELS * SCALE_TOLERANCE
    same_scale = np.abs(scale - wanted) <= SCALE_TOLERANCE * wanted
    same_steps = np.abs(q.astype(int) - expected) <= tied
    return bool(same_scale.all()) and bool(same_steps.all())


def int8_weights(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight (out, in) as q (in, out) and scale (out,): w = q * scale, |q| <= 127."""
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
    q = np.clip(np.rint(weight.T / scale), -LEVELS, LEVELS).astype(np.int8)
    return q, scale
