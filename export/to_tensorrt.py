"""Builds TensorRT and TensorRT-RTX plans of an ONNX engine. The same calls serve both modules.

TensorRT (``tensorrt``) builds on the GPU that will run the plan. TensorRT-RTX (``tensorrt_rtx``)
also builds for a named compute capability on a machine without GPU and driver. A plan is executable
code: one that was not built here must be verified before it is opened.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx_ir as ir

from safediff.errors import Inconclusive, UsageError
from safediff.export.to_onnx import MODEL_NAME, Precision, initializers_sha256, read_precision
from safediff.release.checksums import sha256_file

Kind = Literal["tensorrt", "tensorrt_rtx"]
EXTRAS: Mapping[Kind, str] = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Which sizes a plan takes: number of UNet rows and latent height and width."""

    min_batch: int = 2
    opt_batch: int = 2
    max_batch: int = 16
    min_side: int
    opt_side: int
    max_side: int

    def shapes(self, inputs: Sequence[ir.Value]) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Smallest, best and largest shape of every input that has dynamic dimensions."""
        found = {}
        for value in inputs:
            assert value.shape is not None
            assert value.name is not None
            if all(isinstance(d, int) for d in value.shape):
                continue
            found[value.name] = (
                self._shape(value.shape, self.min_batch, self.min_side),
                self._shape(value.shape, self.opt_batch, self.opt_side),
                self._shape(value.shape, self.max_batch, self.max_side),
            )
        return found

    @staticmethod
    def _shape(dims: ir.Shape, batch: int, side: int) -> Shape:
        sizes = [d if isinstance(d, int) else side for d in dims]
        return (batch, *sizes[1:])


def build(
    engine: Path,
    plan: Path,
    kind: Kind,
    profile: Profile,
    *,
    target: str | None = None,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """Build the plan of an engine folder and write its sidecar ``<plan>.json``.

    Args:
        engine: Engine folder in fp32 or fp16; the plan computes in that precision.
        plan: File to write, named ``*.plan``.
        kind: Which module builds.
        profile: Sizes that the plan takes.
        target: TensorRT-RTX: compute capability to build for, ``SM89``; None: the GPU here.
        flags: Names of ``BuilderFlag``.

    Returns:
        The sidecar's content.

    Raises:
        UsageError: the module is not installed, or lacks the target.
        Inconclusive: there is no GPU where one is needed, or the build failed.
    """
    precision = read_precision(engine / MODEL_NAME)
    if precision == "int8":
        raise UsageError(
            f"{engine}: ONNX Runtime's int8 operators are unknown to TensorRT",
            "build from an fp16 or fp32 engine",
        )
    trt = load_module(kind)
    shapes = profile.shapes(ir.load(engine / MODEL_NAME).graph.inputs)
    data = _build(trt, engine / MODEL_NAME, shapes, kind, target, flags)
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(data)
    sidecar = {
        "path": plan.name,
        "sha256": sha256_file(plan),
        "size_bytes": len(data),
        "kind": kind,
        "module_version": str(trt.__version__),
        "target": target,
        "precision": precision,
        "flags": list(flags),
        "profile": {name: list(map(list, triple)) for name, triple in shapes.items()},
        "limits": asdict(profile),
        "source_onnx_sha256": sha256_file(engine / MODEL_NAME),
        "weights_sha256": initializers_sha256(engine / MODEL_NAME),
        "refittable": "REFIT" in flags,
        "gate": None,
    }
    text = json.dumps(sidecar, indent=2, sort_keys=True) + "\n"
    plan.with_name(plan.name + ".json").write_text(text, encoding="utf-8")
    return sidecar


def load_module(kind: Kind) -> ModuleType:
    """``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(kind)
    except ImportError as error:
        raise UsageError(
            f"{kind} is not installed ({error})",
            f"pip install 'safediff[{EXTRAS[kind]}]', or export with --onnx, which runs anywhere",
        ) from error


def require_gpu(kind: Kind, target: str | None) -> None:
    """Fail early where the build needs a GPU that is not there.

    Raises:
        Inconclusive: no GPU, and nothing else to build for was named.
    """
    import torch

    if torch.cuda.is_available() or (kind == "tensorrt_rtx" and target is not None):
        return
    raise Inconclusive(
        f"{kind} builds a plan on the GPU that will run it, and there is none here",
        "build on that machine, or use --trt-rtx --target SM89 (builds without a GPU), or --onnx",
    )


def _build(
    trt: Any,
    model_path: Path,
    shapes: Mapping[str, tuple[Shape, Shape, Shape]],
    kind: Kind,
    target: str | None,
    flags: Sequence[str],
) -> bytes:
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model_path)):  # from the file: finds the external data
        first = str(parser.get_error(0)) if parser.num_errors else "no reason given"
        raise Inconclusive(f"{model_path}: {kind} can't read it: {first[:200]}", "use opset 18")
    config = builder.create_builder_config()
    if target is not None:
        _set_target(trt, config, target)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in shapes.items():
        profile.set_shape(name, low, best, high)
    if config.add_optimization_profile(profile) < 0:
        raise Inconclusive(f"{model_path}: {kind} rejects the profile {dict(shapes)}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Inconclusive(
            f"{model_path}: {kind} could not build a plan",
            "see its messages above; fp16 in opset 18 is the safest choice",
        )
    _require_types(network, trt, model_path)
    return bytes(plan)


def _set_target(trt: Any, config: Any, target: str) -> None:
    capability = getattr(trt.ComputeCapability, target, None)
    if capability is None or target in ("NONE", "CURRENT"):
        known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        raise UsageError(f"--target {target}: expected {', '.join(known)}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _require_types(network: Any, trt: Any, model_path: Path) -> None:
    """Inputs and output keep the graph's types: a request for half precision can get lost."""
    graph = ir.load(model_path).graph
    expected = {v.name: _TRT_TYPES[v.dtype.name] for v in graph.inputs if v.dtype is not None}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.dtype != getattr(trt.DataType, expected[tensor.name]):
            raise Inconclusive(f"{model_path}: input {tensor.name} became {tensor.dtype}")


_TRT_TYPES = {"FLOAT": "FLOAT", "FLOAT16": "HALF", "BFLOAT16": "BF16"}


def plan_name(kind: Kind, version: str, precision: Precision, target: str | None) -> str:
    """``unet.<target or gpu>.<trt or rtx><version>.<precision>.plan``."""
    short = "rtx" if kind == "tensorrt_rtx" else "trt"
    return f"unet.{(target or 'gpu').lower()}.{short}{version}.{precision}.plan"
