"""What ``safediff export`` is asked for; what of it would be ignored is refused before anything."""

from dataclasses import dataclass
from pathlib import Path

from safediff.errors import UsageError

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-weights")
OPSETS = (18, 23)
LAYOUTS = ("triton", "single-file")
GATE_A_PLAN = "safediff export RELEASE --plan engines/NAME.plan --gate POLICY"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options as they were typed; None where one was not."""

    onnx: bool
    full: bool
    swap_weights: Path | None
    trt: bool
    trt_rtx: bool
    target: str | None
    static: bool
    refit: bool
    plan: Path | None
    precision: str | None
    max_error: float | None
    opset: int | None
    layouts: tuple[str, ...]
    gate: tuple[Path, ...]

    @property
    def a_plan(self) -> bool:
        """Whether a TensorRT plan is to be written."""
        return self.trt or self.trt_rtx

    @property
    def triton_plan(self) -> bool:
        """Whether it is to be served by Triton, too."""
        return self.trt and self.layouts == ("triton",)


def require_possible(asked: Asked) -> None:
    """Refuse options that contradict each other, or of which one would do nothing.

    Raises:
        UsageError: there are such.
    """
    if asked.plan is not None:
        _require_gate_alone(asked)
        return
    _require_one_target(asked)
    _require_known_names(asked)
    if asked.swap_weights and asked.a_plan:
        _require_swap_alone(asked)
    _require_whole_folder(asked)
    _require_int8_for_its_limit(asked)
    if asked.target and not asked.trt_rtx:
        raise UsageError("--target: belongs to --trt-rtx", "add --trt-rtx")
    if (asked.static or asked.refit) and (asked.swap_weights or not asked.a_plan):
        raise UsageError("--static and --refit: say how a plan is built", "add --trt or --trt-rtx")


def _require_gate_alone(asked: Asked) -> None:
    """A plan that is there is measured as it is."""
    given = {
        "--onnx": asked.onnx,
        "--full": asked.full,
        "--swap-weights": asked.swap_weights is not None,
        "--trt": asked.trt,
        "--trt-rtx": asked.trt_rtx,
        "--target": asked.target is not None,
        "--static": asked.static,
        "--refit": asked.refit,
        "--precision": asked.precision is not None,
        "--max-error": asked.max_error is not None,
        "--opset": asked.opset is not None,
        "--layout": bool(asked.layouts),
    }
    named = _named(given)
    if named or not asked.gate:
        what = "--plan: a plan that is there is gated, nothing else"
        raise UsageError(what, f"leave {named} out: {GATE_A_PLAN}" if named else GATE_A_PLAN)


def _require_one_target(asked: Asked) -> None:
    given = {"--onnx": asked.onnx, "--trt": asked.trt, "--trt-rtx": asked.trt_rtx}
    if not any(given.values()) and not asked.swap_weights:
        raise UsageError("no target given", "add --onnx, --trt-rtx, --trt or --swap-weights")
    if sum(given.values()) > 1:
        raise UsageError(f"{_named(given)}: one target at a time", "export once for each")
    if asked.a_plan and asked.full:
        raise UsageError(
            "--full: a whole folder holds ONNX engines, not plans", "add --onnx, without --trt"
        )


def _require_known_names(asked: Asked) -> None:
    if asked.precision is not None and asked.precision not in PRECISIONS:
        raise UsageError(f"--precision {asked.precision}: expected {', '.join(PRECISIONS)}")
    if asked.opset not in (None, *OPSETS):
        raise UsageError(f"--opset {asked.opset}: expected {' or '.join(map(str, OPSETS))}")
    for name in asked.layouts:
        if name not in LAYOUTS:
            raise UsageError(f"--layout {name}: expected {', '.join(LAYOUTS)}")


def _require_swap_alone(asked: Asked) -> None:
    """A plan that takes other weights stays what it is otherwise."""
    built = {
        "--opset": bool(asked.opset),
        "--target": bool(asked.target),
        "--layout": bool(asked.layouts),
    }
    if named := _named(built):
        raise UsageError(
            f"{named}: of a plan that is built; --swap-weights takes one that is there as it is",
            f"leave {named} out, or build a plan of these weights instead",
        )
    if asked.gate:
        raise UsageError(
            "--gate: a plan is gated after its weights were swapped, in a second step",
            f"swap without --gate, then {GATE_A_PLAN}",
        )


def _require_whole_folder(asked: Asked) -> None:
    """What is written or measured beside an engine needs the folder around it."""
    if asked.layouts and asked.a_plan and not asked.triton_plan:
        raise UsageError("--layout: of a plan there is triton alone, of --trt", "leave it out")
    if (asked.gate or asked.layouts) and not (asked.full or asked.a_plan):
        raise UsageError("--layout and --gate belong to a whole folder", "add --full")


def _require_int8_for_its_limit(asked: Asked) -> None:
    """Scales are calibrated with the weights that they belong to."""
    if asked.swap_weights and asked.precision is not None and asked.precision.startswith("int8"):
        raise UsageError(
            "--swap-weights: the scales of an int8 engine belong to its weights",
            "swap in fp32 first, then export with --precision int8",
        )
    if asked.max_error is None:
        return
    if asked.precision != "int8":
        raise UsageError("--max-error: belongs to --precision int8", "add --precision int8")
    if not asked.max_error > 0:
        raise UsageError(f"--max-error {asked.max_error:g}: expected a positive number")


def _named(given: dict[str, bool]) -> str:
    """The options that were given, in words; empty where none was."""
    return " and ".join(name for name, was in given.items() if was)
