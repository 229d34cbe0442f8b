"""Builds TensorRT and TensorRT-RTX plans of an ONNX engine. The same calls serve both modules.

TensorRT (``tensorrt``) builds on the GPU that will run the plan. TensorRT-RTX (``tensorrt_rtx``)
also builds for a named compute capability on a machine without GPU and driver. A plan is executable
code: one that was not built here must be verified before it is opened.

No timing cache is read or written: in TensorRT two builds of one model would then depend on what
was built before, and in TensorRT-RTX its operations do nothing. The sidecar says so.
"""

import gc
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx_ir as ir

from safediff.errors import Inconclusive, UsageError
from safediff.export.built_on import built_on, compute_capability
from safediff.export.engine_files import MODEL_NAME, QUANTIZED_PRECISIONS, Precision, read_metadata
from safediff.export.identity import initializers_sha256, read_precision
from safediff.export.plan_profile import Profile, Triple
from safediff.export.plan_sidecar import write_plan
from safediff.export.signature import UNET_PREFIX
from safediff.release.checksums import sha256_file

Kind = Literal["tensorrt", "tensorrt_rtx"]
EXTRAS: Mapping[Kind, str] = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
REFIT, STRIPPED = "REFIT", "STRIP_PLAN"
WRONG_REFIT = ("11.3.",)
"""TensorRT 11.3 drops a bias of plans built with REFIT, even if no refit follows."""
UNPROVEN_REFIT = ("11.4.",)
"""Its documentation no longer speaks of that fault, nor does it say that it was mended."""
_TRT_TYPES = {"FLOAT": "FLOAT", "FLOAT16": "HALF", "BFLOAT16": "BF16"}


def build(
    engine: Path,
    plan: Path,
    kind: Kind,
    profile: Profile,
    *,
    target: str | None = None,
    flags: Sequence[str] = (),
    base_sha256: str | None = None,
) -> dict[str, Any]:
    """Build the plan of an engine folder and write its sidecar ``<plan>.json``.

    Args:
        engine: Engine folder in fp32, fp16 or bf16; the plan computes in that precision. fp32 means
            it: TF32, which both modules switch on, is off unless it is in ``flags``.
        plan: File to write, named ``*.plan``.
        kind: Which module builds.
        profile: Sizes that the plan takes.
        target: TensorRT-RTX: compute capability to build for, ``SM89``; None: the GPU here.
        flags: Names of ``BuilderFlag``; ``REFIT`` makes a plan whose weights can be exchanged.
        base_sha256: Of the base's UNet, for the sidecar; None: what the engine says of it.

    Returns:
        The sidecar's content.

    Raises:
        UsageError: the module is not installed, lacks the target or a flag, or refits wrongly.
        Inconclusive: there is no GPU where one is needed, the build failed, or the plan can't hold
            the engine's weights.
    """
    model_path = engine / MODEL_NAME
    precision = read_precision(model_path)
    if precision in QUANTIZED_PRECISIONS:
        raise UsageError(
            f"{engine}: ONNX Runtime's int8 operators are unknown to TensorRT",
            "build from an fp16, bf16 or fp32 engine",
        )
    trt = load_module(kind)
    require_flags(kind, str(trt.__version__), flags)
    graph = ir.load(model_path).graph
    shapes = profile.shapes(graph.inputs)
    _free_memory()
    data, tensors = _build(trt, model_path, shapes, kind, target, flags)
    weights_bytes = _weights_bytes(graph)
    if len(data) < weights_bytes and STRIPPED not in flags:
        raise Inconclusive(
            f"{model_path}: {kind} made a plan of {len(data)} bytes of weights that take "
            f"{weights_bytes}: some are lost",
            "build again; if it stays so, use --onnx",
        )
    content = {
        "kind": kind,
        "module_version": str(trt.__version__),
        "target": target,
        "compute_capability": target or compute_capability(),
        "built_on": built_on(),
        "precision": precision,
        "flags": list(flags),
        "timing_cache": None,
        "inputs": tensors[0],
        "outputs": tensors[1],
        "profile": {name: list(map(list, triple)) for name, triple in shapes.items()},
        "limits": asdict(profile),
        "static": profile.is_static,
        "base_sha256": base_sha256 or read_metadata(model_path).get("base_sha256"),
        "source_onnx_sha256": sha256_file(model_path),
        "weights_sha256": initializers_sha256(model_path),
        "weights_bytes": weights_bytes,
        "refittable": REFIT in flags,
        "gate": None,
    }
    return write_plan(plan, data, content)


def _free_memory() -> None:
    """What PyTorch keeps of the GPU without using it is left to the builder."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def load_module(kind: Kind) -> ModuleType:
    """``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(kind)
    except (ImportError, OSError) as error:  # the second of a library that it needs
        raise UsageError(
            f"{kind} is not installed ({error})",
            f"pip install 'safediff[{EXTRAS[kind]}]', or export with --onnx, which runs anywhere",
        ) from error


def require_flags(kind: Kind, version: str, flags: Sequence[str]) -> None:
    """Refuse what a version of a module is known to build wrongly.

    Raises:
        UsageError: a refittable plan of one that drops a bias.
    """
    if REFIT in flags and version.startswith(WRONG_REFIT):
        raise UsageError(
            f"refittable plans of {kind} {version} may compute wrongly",
            "build with another version, or leave --refit out",
        )


def doubt_of(sidecar: Mapping[str, Any]) -> str:
    """What is not known of a plan's refitting, in words; nothing where there is no doubt."""
    if not (sidecar["refittable"] and sidecar["module_version"].startswith(UNPROVEN_REFIT)):
        return ""
    return (
        f"whether {sidecar['kind']} {sidecar['module_version']} still drops a bias of refittable "
        "plans, as 11.3 did, is not known: compare or gate it before it is used"
    )


def require_target(trt: Any, target: str | None) -> None:
    """Refuse a compute capability that a module can't build for; None: that of the GPU here.

    Raises:
        UsageError: it does not know the target.
    """
    if target is None:
        return
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if target not in known:
        raise UsageError(f"--target {target}: expected {', '.join(known)}")


def require_gpu(kind: Kind, target: str | None, flags: Sequence[str] = ()) -> None:
    """Fail early where the build needs a GPU that is not there.

    Raises:
        Inconclusive: no GPU, and nothing else to build for was named.
    """
    import torch

    if torch.cuda.is_available():
        return
    if REFIT in flags:
        raise Inconclusive(
            "a refittable plan needs a GPU to be built, also in TensorRT-RTX, and there is none",
            "build on the machine that will run it, or leave --refit out",
        )
    if kind == "tensorrt_rtx" and target is not None:
        return
    raise Inconclusive(
        f"{kind} builds a plan on the GPU that will run it, and there is none here",
        "build on that machine, or use --trt-rtx --target SM89 (builds without a GPU), or --onnx",
    )


def _build(
    trt: Any,
    model_path: Path,
    shapes: Mapping[str, Triple],
    kind: Kind,
    target: str | None,
    flags: Sequence[str],
) -> tuple[bytes, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The plan, and the network's inputs and outputs as the module read them."""
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model_path)):  # from the file: finds the external data
        first = str(parser.get_error(0)) if parser.num_errors else "no reason given"
        raise Inconclusive(f"{model_path}: {kind} can't read it: {first[:200]}", "use opset 18")
    tensors = _require_types(network, trt, model_path)
    config = builder.create_builder_config()
    if target is not None:
        _set_target(trt, config, target)
    _set_flags(trt, config, flags)
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
    return bytes(plan), tensors


def _set_target(trt: Any, config: Any, target: str) -> None:
    require_target(trt, target)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)


def _set_flags(trt: Any, config: Any, flags: Sequence[str]) -> None:
    """Exactly these: what a module switches on by itself is switched off."""
    if "TF32" not in flags:  # rounds the factors of fp32 products to ten bits
        config.clear_flag(trt.BuilderFlag.TF32)
    for name in flags:
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None:
            raise UsageError(f"{name}: {trt.__name__} {trt.__version__} has no such builder flag")
        config.set_flag(flag)


def _require_types(
    network: Any, trt: Any, model_path: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs keep the graph's names and types: half precision can get lost."""
    graph = ir.load(model_path).graph
    sides = (
        ("input", graph.inputs, [network.get_input(i) for i in range(network.num_inputs)]),
        ("output", graph.outputs, [network.get_output(i) for i in range(network.num_outputs)]),
    )
    described = []
    for side, values, tensors in sides:
        expected = {v.name: _TRT_TYPES[v.dtype.name] for v in values if v.dtype is not None}
        names = [tensor.name for tensor in tensors]
        if set(names) != expected.keys():
            raise Inconclusive(f"{model_path}: {side}s {list(expected)} became {names}")
        for tensor in tensors:
            if tensor.dtype != getattr(trt.DataType, expected[tensor.name]):
                raise Inconclusive(f"{model_path}: {side} {tensor.name} became {tensor.dtype}")
        described.append(
            [{"name": t.name, "dtype": expected[t.name], "dims": list(t.shape)} for t in tensors]
        )
    return described[0], described[1]


def _weights_bytes(graph: ir.Graph) -> int:
    """Of the parameters; equal ones count once, since a builder may store them once."""
    found: dict[bytes, int] = {}
    for name, value in graph.initializers.items():
        if name.startswith(UNET_PREFIX) and value.const_value is not None:
            digest = hashlib.sha256(value.const_value.tobytes()).digest()
            found[digest] = value.const_value.nbytes
    return sum(found.values())


def plan_name(
    kind: Kind,
    version: str,
    precision: Precision,
    target: str | None,
    *,
    static: bool = False,
    refittable: bool = False,
) -> str:
    """``unet.<target>.<trt or rtx><version>.<precision>[.static][.refit].plan``.

    ``target``: the compute capability that it runs on, so that plans for two GPUs are two files;
    None, which becomes ``gpu``, where it is not known.
    """
    short = "rtx" if kind == "tensorrt_rtx" else "trt"
    marks = ".static" * static + ".refit" * refittable
    return f"unet.{(target or 'gpu').lower()}.{short}{version}.{precision}{marks}.plan"
