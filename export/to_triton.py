"""Triton model repository of a UNet: ``<repository>/safediff_unet/config.pbtxt`` and ``1/``.

For callers inside the server (business logic scripting) that run the denoising loop; one HTTP
request a step would spend its time on the network.

The UNet's timestep is a scalar, and Triton knows no scalars: without batching its core demands
``dims`` and refuses the empty ``reshape`` that would turn them into none (``ValidateIOShape`` in
``model_config_utils.cc``). Its ONNX Runtime backend takes ``dims: [ 1 ]`` for a scalar of the graph
(onnxruntime_backend #213, Triton 23.10 and later), so there the engine's own bytes are served. Its
TensorRT backend compares the number of dimensions (``CompareDimsSupported``), so a plan for it is
built from a graph whose timestep has one (``with_one_dimension``).
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from safediff.errors import Inconclusive
from safediff.export.engine_files import DATA_NAME, MODEL_NAME, load_model, save_model
from safediff.export.int8 import add_initializer
from safediff.release.checksums import sha256_file

Backend = Literal["onnxruntime", "tensorrt"]
REPOSITORY = "triton"
"""Folder of the repository in an exported release."""
MODEL = "safediff_unet"
_TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "BFLOAT16": "TYPE_BF16"}
_PLAN_NAME = "model.plan"


def write_repository(
    repository: Path, engine: Path, weights_sha256: str, plan: Path | None = None
) -> Path:
    """Write the repository of an engine folder; with ``plan`` the TensorRT plan is served.

    Args:
        repository: Folder that Triton is started with.
        engine: Engine folder; its graph gives the inputs and outputs. With ``plan`` it is one of
            ``with_one_dimension``.
        weights_sha256: Stored as a parameter, so that a client can ask whose weights it runs.
        plan: Plan file that was built from this engine.

    Returns:
        Path of ``config.pbtxt``.
    """
    folder = repository / MODEL
    (folder / "1").mkdir(parents=True)
    if plan is None:
        for name in (MODEL_NAME, DATA_NAME):
            shutil.copyfile(engine / name, folder / "1" / name)
    else:
        shutil.copyfile(plan, folder / "1" / _PLAN_NAME)
    text = config_text(engine / MODEL_NAME, "tensorrt" if plan else "onnxruntime", weights_sha256)
    check_config(text)
    path = folder / "config.pbtxt"
    path.write_text(text, encoding="utf-8")
    return path


def with_one_dimension(engine: Path, folder: Path) -> Path:
    """Write an engine folder that computes the same; its scalar inputs have the shape (1,)."""
    model = load_model(engine / MODEL_NAME)
    graph = model.graph
    for index, value in enumerate(list(graph.inputs)):
        if value.shape is None or len(value.shape) > 0:
            continue
        given = ir.Value(name=value.name, shape=ir.Shape([1]), type=value.type)
        axis = add_initializer(graph, f"{value.name}_axis", np.zeros(1, np.int64))
        squeeze = ir.node("Squeeze", [given, axis])
        squeeze.outputs[0].name = f"{value.name}_scalar"
        ir.convenience.replace_all_uses_with(value, squeeze.outputs[0])
        graph.insert_before(graph[0], squeeze)
        graph.inputs[index] = given
    folder.mkdir()
    save_model(model, folder)
    return folder


def drop_stale_repository(repository: Path, plans: Iterable[Path]) -> None:
    """Remove a repository that serves a plan which is none of ``plans`` any more.

    A plan that was built anew, or refitted, takes the name of the earlier one; the copy that Triton
    was to serve would be left without anything that speaks of it.
    """
    served = repository / MODEL / "1" / _PLAN_NAME
    if served.exists() and sha256_file(served) not in set(map(sha256_file, plans)):
        shutil.rmtree(repository)


def config_text(model_path: Path, backend: Backend, weights_sha256: str) -> str:
    """``config.pbtxt`` for a graph's inputs and outputs."""
    graph = ir.load(model_path).graph
    inputs = ",\n".join(_tensor(value) for value in graph.inputs)
    outputs = ",\n".join(_tensor(value) for value in graph.outputs)
    return (
        f'name: "{MODEL}"\n'
        f'backend: "{backend}"\n'
        "max_batch_size: 0\n"
        f"input [\n{inputs}\n]\n"
        f"output [\n{outputs}\n]\n"
        "version_policy { specific { versions: [ 1 ] } }\n"
        "parameters [\n"
        f'  {{ key: "safediff.weights_sha256" value {{ string_value: "{weights_sha256}" }} }}\n'
        "]\n"
    )


def _tensor(value: ir.Value) -> str:
    assert value.dtype is not None
    assert value.shape is not None
    dims = [str(d) if isinstance(d, int) else "-1" for d in value.shape]
    shape = ", ".join(dims) or "1"  # for a scalar
    kind = _TYPES[value.dtype.name]
    return f'  {{ name: "{value.name}" data_type: {kind} dims: [ {shape} ] }}'


_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_][\w.]*|-?\d+|[{}\[\]:,;])')
_FIELDS: dict[str, dict[str, str]] = {
    "": {
        "name": "string",
        "backend": "string",
        "platform": "string",
        "max_batch_size": "int",
        "input": "tensor",
        "output": "tensor",
        "version_policy": "policy",
        "parameters": "entry",
    },
    "tensor": {"name": "string", "data_type": "enum", "dims": "int"},
    "policy": {"specific": "versions"},
    "versions": {"versions": "int"},
    "entry": {"key": "string", "value": "text"},
    "text": {"string_value": "string"},
}
"""The fields of Triton's ModelConfig that we write, message by message."""


def check_config(text: str) -> dict[str, Any]:
    """Read a ``config.pbtxt`` strictly: every field known, every value of its type.

    Returns:
        The message; repeated fields as lists.

    Raises:
        Inconclusive: it is not in protobuf's text format, or has a field that we never write.
    """
    tokens = list(_tokens(text))
    message, end = _message(tokens, 0, "")
    if end != len(tokens):
        raise _bad(f"unexpected {tokens[end]!r}")
    for field in ("name", "max_batch_size", "input", "output"):
        if field not in message:
            raise _bad(f"{field} is missing")
    for tensor in (*message["input"], *message["output"]):
        if not tensor.get("dims"):
            raise _bad(f"{tensor.get('name')} has no dims")
    return message


def _tokens(text: str) -> Iterator[str]:
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _bad(f"unreadable at {text[at : at + 20]!r}")
        yield found[1]
        at = found.end()


def _message(tokens: Sequence[str], at: int, kind: str) -> tuple[dict[str, Any], int]:
    """Fields up to a closing brace or the end."""
    message: dict[str, Any] = {}
    while at < len(tokens) and tokens[at] != "}":
        name, known = tokens[at], _FIELDS[kind]
        if name not in known:
            raise _bad(f"unknown field {name!r}")
        at += 1
        if at < len(tokens) and tokens[at] == ":":
            at += 1
        values, at = _values(tokens, at, known[name])
        if name in message and not isinstance(message[name], list):
            raise _bad(f"{name} twice")
        message[name] = values if values is not None else message.get(name)
    return message, at


def _values(tokens: Sequence[str], at: int, kind: str) -> tuple[Any, int]:
    if at < len(tokens) and tokens[at] == "[":
        values, at = [], at + 1
        while at < len(tokens) and tokens[at] != "]":
            value, at = _value(tokens, at, kind)
            values.append(value)
            if at < len(tokens) and tokens[at] == ",":
                at += 1
        if at == len(tokens):
            raise _bad("a list does not end")
        return values, at + 1
    return _value(tokens, at, kind)


def _value(tokens: Sequence[str], at: int, kind: str) -> tuple[Any, int]:
    token = tokens[at] if at < len(tokens) else "the end"
    if kind in _FIELDS:
        if token != "{":
            raise _bad(f"expected a message, found {token!r}")
        message, at = _message(tokens, at + 1, kind)
        if at == len(tokens):
            raise _bad("a message does not end")
        return message, at + 1
    if kind == "string" and token.startswith('"'):
        return token[1:-1], at + 1
    if kind == "int" and re.fullmatch(r"-?\d+", token):
        return int(token), at + 1
    if kind == "enum" and token in _TYPES.values():
        return token, at + 1
    raise _bad(f"expected {kind}, found {token!r}")


def _bad(what: str) -> Inconclusive:
    return Inconclusive(f"config.pbtxt: {what}", "write the repository again")
