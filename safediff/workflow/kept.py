"""What a swap of weights keeps of the engine or plan that it takes, against what was asked for."""

from pathlib import Path

from safediff.errors import UsageError
from safediff.export.engine_files import MODEL_NAME, Precision, read_opset
from safediff.export.identity import read_precision
from safediff.export.plan_sidecar import read_sidecar
from safediff.export.to_tensorrt import Kind
from safediff.release.checksums import SUMS_NAME
from safediff.release.weights import denoiser_folder

OPTIONS = {"tensorrt": "--trt", "tensorrt_rtx": "--trt-rtx"}


def engine_folder(exported: Path) -> Path:
    """Where the engine lies: in a release, or in an engine folder, which is it itself."""
    return denoiser_folder(exported) if (exported / SUMS_NAME).exists() else exported


def kept_of_engine(
    exported: Path, precision: Precision | None, opset: int | None
) -> tuple[Precision, int]:
    """Precision and opset of the graph that is taken; nothing is proved of it here.

    Args:
        exported: An engine folder, a release or an exported release.
        precision: What was asked for; None: nothing.
        opset: The same.

    Raises:
        UsageError: something else was asked for.
        Inconclusive: there is no engine, or it can't be read.
    """
    path = engine_folder(exported) / MODEL_NAME
    kept = read_precision(path), read_opset(path)
    _require_same(exported, "--precision", precision, kept[0])
    _require_same(exported, "--opset", opset, kept[1])
    return kept


def kept_of_plan(plan: Path, kind: Kind, precision: Precision | None) -> Precision:
    """The precision of a plan, by its sidecar.

    Raises:
        UsageError: another one was asked for, or the plan has no sidecar, was changed since, or is
            of the other module.
    """
    sidecar = read_sidecar(plan)
    if (built_by := sidecar["kind"]) != kind:
        raise UsageError(
            f"{OPTIONS[kind]}: {plan} is a plan of {built_by}", f"use {OPTIONS[built_by]}"
        )
    kept: Precision = sidecar["precision"]
    _require_same(plan, "--precision", precision, kept)
    return kept


def _require_same(taken: Path, option: str, asked: object, has: object) -> None:
    if asked not in (None, has):
        raise UsageError(
            f"{option} {asked}: {taken} has {has}, and --swap-weights keeps it",
            f"leave {option} out, or export these weights without --swap-weights",
        )
