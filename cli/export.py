"""``safediff export``: engines of a run's result."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of safediff erase.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX for ONNX Runtime.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="TensorRT (not in this version).")] = False,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    opset: Annotated[int, typer.Option(help="18 or 23.")] = 18,
    out: Annotated[
        Path | None, typer.Option(help="Engine folder; RUN/engine-<precision> if not given.")
    ] = None,
) -> None:
    """Export the erased UNet of a run and prove which weights the engine holds.

    The gate on the engine is `safediff verify RELEASE POLICY`.
    """
    from safediff.errors import UsageError

    if trt:
        raise UsageError(
            "--trt: this version builds no TensorRT engine", "export with --onnx instead"
        )
    if not onnx:
        raise UsageError("no target given", "add --onnx")
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"--precision {precision}: expected fp32 or fp16")
    if opset not in (18, 23):
        raise UsageError(f"--opset {opset}: expected 18 or 23")
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.workflow.export import export_run

    target = out if out is not None else run / f"engine-{precision}"
    result = export_run(run, target, precision, opset)
    print(f"{target}: {result}")
