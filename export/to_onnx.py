"""Writes ONNX engines of a denoiser, changes their weights, and proves whose they are.

An engine folder holds ``model.onnx``, ``model.onnx.data`` and ``config.json`` (the network's own,
as diffusers writes it). Every parameter is an initializer named ``unet.<state dict key>``, of a
transformer ``transformer.<state dict key>``.
"""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, to_torch_dtype
from torch import Tensor, nn

from safediff.errors import Inconclusive, UsageError
from safediff.export.graph import build_graph
from safediff.export.int8 import is_int8, verify_int8_identity
from safediff.export.int8_weights import holds_int8_weights, verify_weights_identity
from safediff.export.quiet import quiet
from safediff.export.signature import PREFIXES
from safediff.folders import new_folder
from safediff.models.patch import state_sha256

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
        opset: 18 runs everywhere; 23 has attention as one node.
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
                model = build_graph(_prepared(denoiser, DTYPES[precision]), opset, num_tokens)
        except (UsageError, OSError):
            raise
        except Exception as error:
            first = (str(error).strip() or repr(error)).splitlines()[0]
            raise Inconclusive(
                f"{folder}: the {type(denoiser).__name__} could not be exported: "
                f"{type(error).__name__}: {first[:200]}",
                "run `safediff doctor` and compare the versions with the supported ones",
            ) from error
        model.metadata_props.update(metadata or {})
        _save(model, temporary)
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
    model = _load(src / MODEL_NAME)
    if is_int8(model) or holds_int8_weights(model):
        raise UsageError(
            f"{src}: is an int8 engine, whose scales belong to its weights",
            "swap into the fp32 engine and quantise that (--precision int8)",
        )
    prefix = _prefix(model)
    slots = _slots(model, state_dict, src / MODEL_NAME, prefix)
    for name, slot in slots.items():
        assert slot.const_value is not None
        tensor = state_dict[name.removeprefix(prefix)]
        new = TorchTensor(_cast(tensor, slot), name=name)
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
        _save(model, temporary)
        shutil.copyfile(src / CONFIG_NAME, temporary / CONFIG_NAME)
    return dst / MODEL_NAME


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
    model = _load(model_path)
    if holds_int8_weights(model):
        verify_weights_identity(model_path, model, state_dict)
        return
    if is_int8(model):
        verify_int8_identity(model_path, model, state_dict)
        return
    prefix = _prefix(model) if prefix is None else prefix
    for name, slot in _slots(model, state_dict, model_path, prefix).items():
        assert slot.const_value is not None
        expected = _cast(state_dict[name.removeprefix(prefix)], slot)
        shape = tuple(slot.const_value.shape)
        if not slot.uses():
            raise _foreign(f"{model_path}: holds {name} but does not compute with it")
        if shape != tuple(expected.shape) or _bytes(slot.const_value) != _bytes(
            TorchTensor(expected)
        ):
            raise _foreign(f"{model_path}: {name} differs from the weights it should hold")


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
    state, model = {}, _load(model_path)
    prefix = _prefix(model) if prefix is None else prefix
    for name, value in model.graph.initializers.items():
        if name.startswith(prefix):
            assert value.const_value is not None
            stored = value.const_value
            tensor = torch.frombuffer(bytearray(_bytes(stored)), dtype=to_torch_dtype(stored.dtype))
            state[name.removeprefix(prefix)] = tensor.reshape(stored.shape.numpy())
    return state_sha256(state)


def read_opset(model_path: Path) -> int:
    """The ONNX opset of an engine.

    Raises:
        Inconclusive: the engine can't be read.
    """
    return int(_load(model_path).opset_imports.get("", 0))


def read_metadata(model_path: Path) -> dict[str, str]:
    """The metadata that ``export_denoiser`` stored.

    Raises:
        Inconclusive: the engine can't be read.
    """
    return dict(_load(model_path).metadata_props)


def read_precision(model_path: Path) -> Precision:
    """The precision that an engine computes in.

    Raises:
        Inconclusive: the engine can't be read, or is of another type.
    """
    model = _load(model_path)
    if holds_int8_weights(model):
        return "int8-weights"
    if is_int8(model):
        return "int8"
    dtype = model.graph.inputs[0].dtype
    for name, known in DTYPES.items():
        if dtype is not None and to_torch_dtype(dtype) == known:
            return name
    raise Inconclusive(f"{model_path}: computes in {dtype}, expected {' or '.join(DTYPES)}")


def is_engine(folder: Path) -> bool:
    """Whether the folder holds an engine and nothing else."""
    return {path.name for path in folder.iterdir()} == ENGINE_FILES


def _prepared(denoiser: Any, dtype: torch.dtype) -> Any:
    if denoiser.dtype == dtype and not denoiser.training:
        return denoiser
    cast = copy.deepcopy(denoiser)
    nn.Module.to(cast, dtype)  # diffusers' own ``to`` warns that none of its layers stays fp32
    return cast.eval()


def _save(model: ir.Model, folder: Path) -> None:
    ir.save(model, folder / MODEL_NAME, external_data=DATA_NAME)


def _save_config(denoiser: Any, folder: Path) -> None:
    config = json.loads(denoiser.to_json_string())
    config.pop("_name_or_path", None)  # where the base lay on the machine that exported
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def _load(path: Path) -> ir.Model:
    if not path.is_file():
        raise Inconclusive(f"{path}: no such engine", "export it first")
    try:
        return ir.load(path)
    except Exception as error:
        raise Inconclusive(
            f"{path}: not a readable ONNX file ({type(error).__name__})", "export it again"
        ) from error


def _prefix(model: ir.Model) -> str:
    """Of the denoiser's parameters."""
    names = model.graph.initializers
    found = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in names)]
    return found[0] if found else PREFIXES[0]


def _slots(
    model: ir.Model, state: Mapping[str, Tensor], path: Path, prefix: str
) -> dict[str, ir.Value]:
    slots = {n: v for n, v in model.graph.initializers.items() if n.startswith(prefix)}
    differing = slots.keys() ^ {prefix + key for key in state}
    if differing:
        raise UsageError(
            f"{path}: {len(differing)} parameter names differ from those of the weights, "
            f"first {min(differing)}",
            "export an engine of this architecture",
        )
    return slots


def _cast(tensor: Tensor, slot: ir.Value) -> Tensor:
    assert slot.dtype is not None
    return tensor.detach().to("cpu", to_torch_dtype(slot.dtype)).contiguous()


def _bytes(tensor: ir.TensorProtocol) -> bytes:
    try:
        return tensor.tobytes()
    except (OSError, ValueError) as error:  # external data is read here, not when loading
        raise Inconclusive(
            f"{tensor.name}: its data can't be read ({error})", "export the engine again"
        ) from error


def _foreign(message: str) -> Inconclusive:
    return Inconclusive(message, "export the engine again from the weights that were verified")
