"""``safediff export``: engines of a run's or release's result."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from safediff.cli.export_options import Asked, require_possible

if TYPE_CHECKING:
    from safediff.export.engine_files import Precision
    from safediff.export.to_tensorrt import Kind
    from safediff.workflow.deploy import Layout


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_OR_RELEASE", help="Folder that safediff erase wrote.")
    ],
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX for ONNX Runtime.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="A folder to serve: every part as an engine.")
    ] = False,
    swap_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="ENGINE",
            help="Take the graph of this engine, release or refittable plan; only the weights are "
            "new.",
        ),
    ] = None,
    trt: Annotated[bool, typer.Option("--trt", help="TensorRT plan (needs its GPU).")] = False,
    trt_rtx: Annotated[
        bool, typer.Option("--trt-rtx", help="TensorRT-RTX plan (builds without a GPU).")
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="--trt-rtx: compute capability, such as SM89.")
    ] = None,
    static: Annotated[
        bool,
        typer.Option(
            "--static",
            help="Of a TensorRT plan: one picture at the model's size only, instead of up to eight "
            "from half to twice it (Stable Diffusion: two, to one and a half times).",
        ),
    ] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Of a TensorRT plan: its weights can be swapped (slower)."),
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN",
            help="With --gate: measure it on this TensorRT plan of the release.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8 (linear layers) or int8-weights (the file); the policy's "
            "if not given."
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="ERROR",
            help="int8: relative error of a prediction that calibration allows; 0.01 if not given.",
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="18 or 23; the policy's if not given, of a plan 18.")
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option(help="With --full, also: triton, single-file; with --trt: triton."),
    ] = None,
    gate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="POLICY",
            help="Measure this policy on the engine that is written; each of a combined release.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; beside RUN_OR_RELEASE if not given.")
    ] = None,
) -> None:
    """Export the erased model and prove which weights the engine holds."""
    layouts, policies = tuple(layout or ()), tuple(gate or ())
    asked = Asked(
        onnx=onnx,
        full=full,
        swap_weights=swap_weights,
        trt=trt,
        trt_rtx=trt_rtx,
        target=target,
        static=static,
        refit=refit,
        plan=plan,
        precision=precision,
        max_error=max_error,
        opset=opset,
        layouts=layouts,
        gate=policies,
    )
    require_possible(asked)
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    if plan is not None:
        _gate_plan(run, plan, policies, out)
        return
    if swap_weights:
        given = cast("Precision | None", precision), opset
        if trt or trt_rtx:
            _swap_plan(run, swap_weights, "tensorrt_rtx" if trt_rtx else "tensorrt", given[0], out)
        else:
            named = cast("tuple[Layout, ...]", layouts)
            _swap_engine(run, swap_weights, given, out, full=full, layouts=named, gate=policies)
        return
    from safediff.workflow.export_source import OPSET, policy_form

    wanted, wanted_opset = policy_form(run)
    chosen = wanted if precision is None else cast("Precision", precision)
    opset = opset or (OPSET if trt or trt_rtx else wanted_opset)
    if trt or trt_rtx:
        from safediff.workflow.plans import export_plan

        kind: Kind = "tensorrt_rtx" if trt_rtx else "tensorrt"
        folder = out or _beside(run, f"{kind}-{chosen}")
        line = export_plan(
            *(run, folder, kind, chosen, target),
            opset=opset,
            static=static,
            refittable=refit,
            triton=asked.triton_plan,
            policies=policies,
        )
        print(line)
    elif full:
        from safediff.workflow.calibrate import MAX_ERROR
        from safediff.workflow.deploy import deploy_run

        folder = out or _beside(run, chosen)
        limit = MAX_ERROR if max_error is None else max_error
        named = cast("tuple[Layout, ...]", layouts)
        deployed = deploy_run(run, folder, chosen, opset, named, None, policies, limit)
        print(f"{folder}: {deployed.line}")
    else:
        from safediff.workflow.calibrate import MAX_ERROR
        from safediff.workflow.export import export_run

        folder = out or _beside(run, f"engine-{chosen}")
        limit = MAX_ERROR if max_error is None else max_error
        print(f"{folder}: {export_run(run, folder, chosen, opset, limit).line}")


def _swap_engine(
    run: Path,
    engine: Path,
    asked: "tuple[Precision | None, int | None]",
    out: Path | None,
    *,
    full: bool,
    layouts: "tuple[Layout, ...]",
    gate: Sequence[Path],
) -> None:
    from safediff.workflow.deploy import deploy_run
    from safediff.workflow.export import swap
    from safediff.workflow.kept import kept_of_engine

    precision, opset = kept_of_engine(engine, *asked)
    folder = out or _beside(run, precision if full else f"engine-{precision}")
    if full:
        deployed = deploy_run(run, folder, precision, opset, layouts, engine, gate)
        print(f"{folder}: {deployed.line}")
    else:
        print(f"{folder}: {swap(run, engine, folder).line}")


def _swap_plan(
    run: Path, plan: Path, kind: "Kind", precision: "Precision | None", out: Path | None
) -> None:
    from safediff.workflow.kept import kept_of_plan
    from safediff.workflow.plans import refit_plan

    kept = kept_of_plan(plan, kind, precision)
    print(refit_plan(run, plan, out or _beside(run, f"{kind}-{kept}")))


def _gate_plan(run: Path, plan: Path, policies: Sequence[Path], out: Path | None) -> None:
    from safediff.workflow.plan_gate import gate_plan

    print(gate_plan(run, plan, policies, out or _beside(run, "gated")))


def _beside(run: Path, what: str) -> Path:
    """In a release it would be a file that the checksums do not list."""
    if run.name in ("", ".."):
        run = run.resolve()
    return run.with_name(f"{run.name}-{what}")
