"""``safediff export``: engines of a run's or release's result."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from safediff.export.engine_files import Precision
    from safediff.export.to_tensorrt import Kind
    from safediff.workflow.deploy import Layout

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-weights")
LAYOUTS = ("triton", "single-file")


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
    from safediff.errors import UsageError

    if plan is not None:
        if not gate or any((onnx, full, trt, trt_rtx, swap_weights, layout)):
            raise UsageError(
                "--plan: a plan that is there is gated, nothing else",
                "safediff export RELEASE --plan engines/NAME.plan --gate POLICY",
            )
        _gate_plan(run, plan, gate, out)
        return
    _require_one_target(onnx=onnx, swap=swap_weights is not None, trt=trt, trt_rtx=trt_rtx)
    if (trt or trt_rtx) and full:
        raise UsageError(
            "--full: a whole folder holds ONNX engines, not plans", "add --onnx, without --trt"
        )
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: expected {', '.join(PRECISIONS)}")
    if opset not in (None, 18, 23):
        raise UsageError(f"--opset {opset}: expected 18 or 23")
    layouts = tuple(layout or ())
    for name in layouts:
        if name not in LAYOUTS:
            raise UsageError(f"--layout {name}: expected {', '.join(LAYOUTS)}")
    if swap_weights and (trt or trt_rtx):
        _require_nothing_of_a_build(opset=opset, target=target, layout=layout)
        if gate:
            raise UsageError(
                "--gate: a plan is gated after its weights were swapped, in a second step",
                "swap without --gate, then safediff export RELEASE --plan engines/NAME.plan "
                "--gate POLICY",
            )
    with_plan = trt and layouts == ("triton",)
    if layouts and (trt or trt_rtx) and not with_plan:
        raise UsageError("--layout: of a plan there is triton alone, of --trt", "leave it out")
    if (gate or layouts) and not (full or trt or trt_rtx):
        raise UsageError("--layout and --gate belong to a whole folder", "add --full")
    if swap_weights and precision is not None and precision.startswith("int8"):
        raise UsageError(
            "--swap-weights: the scales of an int8 engine belong to its weights",
            "swap in fp32 first, then export with --precision int8",
        )
    if max_error is not None and precision != "int8":
        raise UsageError("--max-error: belongs to --precision int8", "add --precision int8")
    if max_error is not None and not max_error > 0:
        raise UsageError(f"--max-error {max_error:g}: expected a positive number")
    if target and not trt_rtx:
        raise UsageError("--target: belongs to --trt-rtx", "add --trt-rtx")
    if (static or refit) and (swap_weights or not (trt or trt_rtx)):
        raise UsageError("--static and --refit: say how a plan is built", "add --trt or --trt-rtx")
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    if swap_weights:
        given = cast("Precision | None", precision), opset
        if trt or trt_rtx:
            _swap_plan(run, swap_weights, "tensorrt_rtx" if trt_rtx else "tensorrt", given[0], out)
        else:
            named = cast("tuple[Layout, ...]", layouts)
            _swap_engine(run, swap_weights, given, out, full=full, layouts=named, gate=gate or ())
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
            triton=with_plan,
            policies=gate or (),
        )
        print(line)
    elif full:
        from safediff.workflow.calibrate import MAX_ERROR
        from safediff.workflow.deploy import deploy_run

        folder = out or _beside(run, chosen)
        limit = MAX_ERROR if max_error is None else max_error
        named = cast("tuple[Layout, ...]", layouts)
        deployed = deploy_run(run, folder, chosen, opset, named, None, gate or (), limit)
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


def _require_nothing_of_a_build(**given: object) -> None:
    from safediff.errors import UsageError

    named = [f"--{name}" for name, value in given.items() if value]
    if named:
        raise UsageError(
            f"{' and '.join(named)}: of a plan that is built; --swap-weights takes one that is "
            "there as it is",
            f"leave {' and '.join(named)} out, or build a plan of these weights instead",
        )


def _gate_plan(run: Path, plan: Path, policies: list[Path], out: Path | None) -> None:
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.workflow.plan_gate import gate_plan

    print(gate_plan(run, plan, policies, out or _beside(run, "gated")))


def _require_one_target(*, onnx: bool, swap: bool, trt: bool, trt_rtx: bool) -> None:
    from safediff.errors import UsageError

    given = {"--onnx": onnx, "--trt": trt, "--trt-rtx": trt_rtx}
    named = [name for name, wanted in given.items() if wanted]
    if not named and not swap:
        raise UsageError("no target given", "add --onnx, --trt-rtx, --trt or --swap-weights")
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)}: one target at a time", "export once for each")


def _beside(run: Path, what: str) -> Path:
    """In a release it would be a file that the checksums do not list."""
    if run.name in ("", ".."):
        run = run.resolve()
    return run.with_name(f"{run.name}-{what}")
