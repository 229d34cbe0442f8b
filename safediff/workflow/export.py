"""Exports the result of a run or release once more: other precision, opset, or swapped weights."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safediff.errors import UsageError
from safediff.export.engine_files import (
    CONFIG_NAME,
    DATA_NAME,
    MODEL_NAME,
    QUANTIZED_PRECISIONS,
    Precision,
    is_engine,
    read_metadata,
    read_opset,
)
from safediff.export.identity import initializers_sha256, read_precision, verify_identity
from safediff.export.int8 import quantize_engine
from safediff.export.int8_weights import quantize_weights
from safediff.export.to_onnx import BF16_OPSET, export_denoiser, swap_weights
from safediff.folders import new_folder
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.release.checksums import SUMS_NAME, verify_checksums
from safediff.release.copying import require_outside
from safediff.workflow.calibrate import MAX_ERROR, write_calibrated
from safediff.workflow.engine_report import EngineReport, measure_engine, require_passed
from safediff.workflow.engines import hashes_of, require_unet
from safediff.workflow.export_source import ExportSource, open_source
from safediff.workflow.kept import engine_folder


def export_run(
    path: Path,
    folder: Path,
    precision: Precision,
    opset: int,
    max_error: float | None = MAX_ERROR,
) -> EngineReport:
    """Write an engine of the model in a run or release, and measure it; see ``write_engine``.

    Raises:
        UsageError: ``path`` is neither a run with a patch nor a release, or ``folder`` lies in a
            release.
        Inconclusive: the engine can't be written.
        PolicyViolated: it is no copy of the model; then ``folder`` is left as it was.
    """
    require_opset(precision, opset)
    source = open_source(path)

    def write(target: Path) -> None:
        write_engine(source, target, precision, opset, max_error)

    return _write_measured(source, folder, write)


def require_opset(precision: Precision, opset: int) -> None:
    """Refuse a graph that ONNX Runtime could open nowhere; plans can be built from it all the same.

    Raises:
        UsageError: bf16 in an opset whose convolutions have none.
    """
    if precision == "bf16" and opset < BF16_OPSET:
        raise UsageError(
            f"bf16 in opset {opset}: ONNX has no convolution in bf16 before opset {BF16_OPSET}",
            "add --opset 23, or build a plan (--trt-rtx), whose builder reads opset 18",
        )


def _write_measured(
    source: ExportSource, folder: Path, write: Callable[[Path], None], *, swapped: bool = False
) -> EngineReport:
    """An engine folder that appears once the engine in it was found to be a copy."""
    require_outside(folder, source.release)
    with new_folder(folder, is_engine, "an engine folder") as temporary:
        write(temporary)
        report = measure_engine(source, temporary, swapped=swapped)
        require_passed(report, folder)
    return report


def write_engine(
    source: ExportSource,
    folder: Path,
    precision: Precision,
    opset: int,
    max_error: float | None = MAX_ERROR,
) -> None:
    """An engine folder; the engine that lies in the source is taken where it is the one asked for.

    The taken one keeps its bytes, so what a certificate says of it stays true.

    Args:
        source: The verified model.
        folder: The engine folder to write.
        precision: Of the engine.
        opset: Of the graph.
        max_error: What int8 may cost (``calibrate``); None quantises every linear layer.

    Raises:
        Inconclusive: the engine can't be written, or not within ``max_error``.
    """
    if precision in QUANTIZED_PRECISIONS:
        require_unet(source.model, f"--precision {precision}")
        with tempfile.TemporaryDirectory() as work:
            fp32 = Path(work) / "fp32"
            write_engine(source, fp32, "fp32", opset)
            if precision == "int8-weights":
                quantize_weights(fp32, folder, metadata(source))
            elif max_error is None:
                quantize_engine(fp32, folder, metadata(source))
            else:
                write_calibrated(source, fp32, folder, metadata(source), max_error)
    elif source.engine is not None and _is(source.engine, precision, opset):
        with new_folder(folder, is_engine, "an engine folder") as temporary:
            for name in (MODEL_NAME, DATA_NAME, CONFIG_NAME):
                shutil.copyfile(source.engine / name, temporary / name)
    else:
        export_denoiser(
            source.model.denoiser,
            folder,
            opset=opset,
            precision=precision,
            num_tokens=source.model.num_tokens,
            metadata=metadata(source, precision),
        )
    verify_identity(folder / MODEL_NAME, source.model.denoiser.state_dict())


def _is(engine: Path, precision: Precision, opset: int) -> bool:
    path = engine / MODEL_NAME
    return read_precision(path) == precision and read_opset(path) == opset


def metadata(source: ExportSource, precision: Precision = "fp32") -> dict[str, str]:
    """What an engine of that precision says of itself."""
    return {
        "policy": source.policy["name"],
        **hashes_of(source.model.denoiser.state_dict(), precision),
        "base_sha256": source.base_sha256,
    }


def swap(path: Path, exported: Path, folder: Path) -> EngineReport:
    """Put the weights of a run or release into an engine that another one was exported to.

    The graph is kept and was compared when it was exported. So what is compared is brief, and this
    takes seconds where an export takes minutes; the engine that is read is checked while the new
    weights are loaded.

    Args:
        path: The run or release with the new weights.
        exported: An engine folder, a release or an exported release with an fp32 or fp16 engine.
        folder: The engine folder to write.

    Raises:
        UsageError: ``exported`` was made from another base, or does not match its checksums, or
            ``folder`` lies in a release.
        Inconclusive: its engine holds other weights than it was written with.
        PolicyViolated: the new engine is no copy of the model; then ``folder`` is left as it was.
    """
    with ThreadPoolExecutor(1) as beside:
        checked = beside.submit(check_engine, exported)
        source = open_source(path)
        engine = checked.result()
    return _write_measured(source, folder, lambda f: swap_into(source, engine, f), swapped=True)


@dataclass(frozen=True, kw_only=True)
class CheckedEngine:
    """An engine whose graph may be taken."""

    folder: Path
    base_sha256: str
    """Of the denoiser from which the model in it was made."""
    named: Path
    """What the user called it."""


def swap_into(source: ExportSource, engine: CheckedEngine, folder: Path) -> None:
    """Write the engine and prove its weights; see ``swap``.

    Raises:
        UsageError: it was made from another base.
    """
    if engine.base_sha256 != source.base_sha256:
        raise UsageError(
            f"{engine.named}: its engine was made from base {engine.base_sha256[:12]}, these "
            f"weights from {source.base_sha256[:12]}",
            "swap into an engine of the same base model",
        )
    state = source.model.denoiser.state_dict()
    told = metadata(source, read_precision(engine.folder / MODEL_NAME))
    swap_weights(engine.folder, folder, state, metadata=told)
    verify_identity(folder / MODEL_NAME, state)


def check_engine(exported: Path) -> CheckedEngine:
    """An engine folder, or that of a release, if it is as it was written.

    Raises:
        UsageError: it was changed since, or does not say from which base it was made.
        Inconclusive: it can't be read.
    """
    engine = engine_folder(exported)
    certified_base = None
    released = (exported / SUMS_NAME).exists()
    if released:
        verify_checksums(exported)
        if (exported / CERTIFICATE_NAME).exists():
            text = (exported / CERTIFICATE_NAME).read_text(encoding="utf-8")
            certified_base = json.loads(text)["base_model"]["sha256"]["unet"]
    stored = read_metadata(engine / MODEL_NAME)
    made_from = stored.get("base_sha256", certified_base)
    if made_from is None:
        raise UsageError(
            f"{exported}: its engine does not say from which base it was made",
            "export it once with this version",
        )
    if not released:
        _require_untouched(exported, stored)
    return CheckedEngine(folder=engine, base_sha256=made_from, named=exported)


def _require_untouched(engine: Path, told: Mapping[str, str]) -> None:
    """A folder without checksums says itself which weights it was written with.

    Earlier versions wrote it in fp32 alone.
    """
    whole = read_precision(engine / MODEL_NAME) == "fp32"
    written = told.get("safe_sha256" if whole else "weights_sha256")
    if written is None:
        return
    found = initializers_sha256(engine / MODEL_NAME)
    if found != written:
        raise UsageError(
            f"{engine}: its engine holds weights {found[:12]}, it was written with {written[:12]}",
            "it was changed since; export it again",
        )
