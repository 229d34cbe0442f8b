"""Opens a plan that was built here, and checks that it is what its sidecar says.

Opening a plan runs its code, so the bytes that are opened are hashed and compared first. Whether an
opened one computes what it should is not decided here.
"""

from pathlib import Path
from typing import Any

from safediff.errors import Inconclusive, UsageError, first_line
from safediff.export.built_on import compute_capability
from safediff.export.plan_sidecar import made_for, read_plan, require_same_gpu
from safediff.export.to_tensorrt import load_module


def open_plan(plan: Path, sha256: str | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """The module, the engine and the sidecar of a plan.

    Args:
        plan: The plan.
        sha256: What it was found to be when it was checked; see ``read_plan``.

    Raises:
        UsageError: the plan has no sidecar or was changed, or another version of its module, or
            none, is installed.
        Inconclusive: there is no driver or GPU that it can be opened on, or one of another compute
            capability; or its inputs, outputs or sizes are others than the sidecar's.
    """
    data, sidecar = read_plan(plan, sha256)
    kind = sidecar["kind"]
    trt = load_module(kind)
    if str(trt.__version__) != sidecar["module_version"]:
        raise UsageError(
            f"{plan}: was built by {kind} {sidecar['module_version']}, here is {trt.__version__}",
            "a plan fits one version: build it again",
        )
    require_same_gpu(plan, sidecar, compute_capability())
    log = _log(trt)
    engine = _deserialized(trt, log, data)
    if engine is None:
        raise Inconclusive(
            f"{plan}: {kind} can't open it here: {log.first or 'it gives no reason'}",
            f"run it on the GPU it was built for ({made_for(sidecar)}), "
            "with its driver, or use the ONNX engine",
        )
    _require_described(plan, trt, engine, sidecar)
    return trt, engine, sidecar


def _deserialized(trt: Any, log: Any, data: bytes) -> Any:
    """The engine; None where there is none, of which the modules mostly tell the logger alone."""
    try:
        return trt.Runtime(log).deserialize_cuda_engine(data)
    except (RuntimeError, TypeError) as error:  # CUDA can't be initialised
        log.first = log.first or first_line(error)
        return None


def _log(trt: Any) -> Any:
    """A logger that keeps the first error instead of printing it."""

    class Log(trt.ILogger):  # type: ignore[misc]
        """See above."""

        first = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Called by the module."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.first = self.first or message.splitlines()[0][:200]

    return Log()


def _require_described(plan: Path, trt: Any, engine: Any, sidecar: dict[str, Any]) -> None:
    """Names, types and profile of the opened engine against the sidecar."""
    for side, mode in (("inputs", trt.TensorIOMode.INPUT), ("outputs", trt.TensorIOMode.OUTPUT)):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {
            name: engine.get_tensor_dtype(name)
            for name in names
            if engine.get_tensor_mode(name) == mode
        }
        expected = {t["name"]: getattr(trt.DataType, t["dtype"]) for t in sidecar[side]}
        if found != expected:
            raise Inconclusive(f"{plan}: has {side} {found}, expected {expected}", "build it again")
    for name, triple in sidecar["profile"].items():
        shapes = [list(shape) for shape in engine.get_tensor_profile_shape(name, 0)]
        if shapes != triple:
            raise Inconclusive(
                f"{plan}: {name} takes {shapes}, expected {triple}", "build it again"
            )
