"""Exports the result of a run or release once more: other precision, opset, or swapped weights."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safediff.errors import PolicyViolated, UsageError
from safediff.export.int8 import quantize_engine
from safediff.export.parity import Parity, measure_margin_ratio, measure_parity
from safediff.export.runtime import open_denoiser
from safediff.export.survival import Survival, measure_survival
from safediff.export.to_onnx import (
    CONFIG_NAME,
    DATA_NAME,
    MODEL_NAME,
    Precision,
    export_denoiser,
    initializers_sha256,
    is_engine,
    read_metadata,
    read_opset,
    read_precision,
    swap_weights,
    verify_identity,
)
from safediff.folders import new_folder
from safediff.gate.verdict import CheckResult
from safediff.models.backbone import Condition
from safediff.models.patch import unet_sha256
from safediff.release.certificate import CERTIFICATE_NAME
from safediff.release.checksums import SUMS_NAME, verify_checksums
from safediff.release.weights import denoiser_folder
from safediff.workflow.calibrate import CALIBRATION, MAX_ERROR, write_calibrated
from safediff.workflow.engines import closeness, edit_left, require_unet
from safediff.workflow.export_source import ExportSource, open_source

NUM_LATENTS = 4


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What was measured of a written engine."""

    precision: Precision
    opset: int
    weights_sha256: str
    """Of the initializers; that of the UNet's state for fp32."""
    parity: Parity
    survival: Survival | None
    """None where the base is not known here."""
    calibration: dict[str, Any] | None = None
    """Of an int8 engine: what was calibrated on, and which layers stay fp32."""

    @property
    def passed(self) -> bool:
        """Whether the engine is close enough to the UNet, and the edit is still in it."""
        return self.parity.passed and (self.survival is None or self.survival.survives)

    @property
    def checks(self) -> list[CheckResult]:
        """The same, as rows of a gate that is run on the engine."""
        left = [] if self.survival is None else [edit_left(self.survival)]
        return [closeness(self.parity), *left]

    @property
    def line(self) -> str:
        """For the user."""
        margin = self.parity.margin_ratio
        parts = [
            f"{self.precision}, opset {self.opset}, weights identical "
            f"(initializers {self.weights_sha256[:12]})",
            f"differs from PyTorch by at most {self.parity.worst_max_abs:.1e} standard deviations"
            f", {'within' if self.parity.passed else 'OUTSIDE'} its limits",
        ]
        if self.calibration is not None:
            parts.append(self.calibration["line"])
        if margin is not None:
            parts.append(f"{margin:.1e} of the way back to the base")
        if self.survival is not None:
            state = "survives" if self.survival.survives else "DROWNS IN ROUNDING"
            parts.append(f"edit {state} (lowest cosine {self.survival.min_cosine:.2f})")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {
            "precision": self.precision,
            "opset": self.opset,
            "weights_sha256": self.weights_sha256,
            "parity": self.parity.to_json(),
            "delta": None if self.survival is None else self.survival.to_json(),
            "margin_ratio": self.parity.margin_ratio,
            "calibration": self.calibration,
            "passed": self.passed,
        }


def export_run(
    path: Path,
    folder: Path,
    precision: Precision,
    opset: int,
    max_error: float | None = MAX_ERROR,
) -> EngineReport:
    """Write an engine of the model in a run or release, and measure it; see ``write_engine``.

    Raises:
        UsageError: ``path`` is neither a run with a patch nor a release.
        Inconclusive: the engine can't be written.
        PolicyViolated: it is no copy of the model; then ``folder`` is left as it was.
    """
    source = open_source(path)

    def write(target: Path) -> None:
        write_engine(source, target, precision, opset, max_error)

    return _write_measured(source, folder, write)


def _write_measured(
    source: ExportSource, folder: Path, write: Callable[[Path], None]
) -> EngineReport:
    """An engine folder that appears once the engine in it was found to be a copy."""
    with new_folder(folder, is_engine, "an engine folder") as temporary:
        write(temporary)
        report = measure_engine(source, temporary)
        require_passed(report, folder)
    return report


def require_passed(report: EngineReport, folder: Path, *, gated: bool = False) -> None:
    """Refuse an engine that computes something else, or has lost the edit in rounding.

    The first is a failed check of every policy. The second is one where nothing else is measured;
    a gate that draws with the engine tells more, and takes it as a warning.

    Raises:
        PolicyViolated: nothing is to be written to ``folder``.
    """
    if report.passed or (gated and report.parity.passed):
        return
    raise PolicyViolated(
        f"{folder}: not written, the engine failed its checks: {report.line}",
        "choose another --precision"
        + ("" if gated else "; with --full --gate POLICY the gate decides on a drowned edit"),
    )


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
    if precision == "int8":
        require_unet(source.model, "--precision int8")
        with tempfile.TemporaryDirectory() as work:
            fp32 = Path(work) / "fp32"
            write_engine(source, fp32, "fp32", opset)
            if max_error is None:
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
            metadata=metadata(source),
        )
    verify_identity(folder / MODEL_NAME, source.model.denoiser.state_dict())


def _is(engine: Path, precision: Precision, opset: int) -> bool:
    path = engine / MODEL_NAME
    return read_precision(path) == precision and read_opset(path) == opset


def metadata(source: ExportSource) -> dict[str, str]:
    """What an engine says of itself."""
    return {
        "policy": source.policy["name"],
        "safe_sha256": unet_sha256(source.model.denoiser),
        "base_sha256": source.base_sha256,
    }


def measure_engine(source: ExportSource, folder: Path) -> EngineReport:
    """Compare an engine with PyTorch, on erased and kept prompts; what is left of the edit."""
    path = folder / MODEL_NAME
    precision = read_precision(path)
    model, base = source.model, source.base
    engine = model.with_denoiser(open_denoiser(folder, num_threads=torch.get_num_threads()))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(NUM_LATENTS, *model.latent_shape, generator=generator)
    erased = model.encode(_spread(source.erased_prompts, NUM_LATENTS))
    margin = None
    if base is not None:
        margin = measure_margin_ratio(engine.denoise, model.denoise, base.denoise, latents, erased)
    half = NUM_LATENTS // 2
    kept = model.encode(_spread(source.kept_prompts, half))
    found = measure_parity(
        engine.denoise,
        model.denoise,
        latents,
        Condition.cat([erased.rows(slice(half)), kept]),
        precision=precision,
        margin_ratio=margin,
    )
    record = read_metadata(path).get(CALIBRATION)
    calibration = None if record is None else json.loads(record)
    survival = None
    if base is not None:
        states = base.denoiser.state_dict(), model.denoiser.state_dict()
        exact = [] if calibration is None else calibration["kept_fp32"]
        survival = measure_survival(*states, precision, exact)
    return EngineReport(
        precision=precision,
        opset=read_opset(path),
        weights_sha256=initializers_sha256(path),
        parity=found,
        survival=survival,
        calibration=calibration,
    )


def _spread(texts: list[str], count: int) -> list[str]:
    return [texts[i * len(texts) // count] for i in range(count)]


def swap(path: Path, exported: Path, folder: Path) -> EngineReport:
    """Put the weights of a run or release into an engine that another one was exported to.

    The graph is kept, so this takes seconds where an export takes minutes.

    Args:
        path: The run or release with the new weights.
        exported: An engine folder, a release or an exported release with an fp32 or fp16 engine.
        folder: The engine folder to write.

    Raises:
        UsageError: ``exported`` was made from another base, or does not match its checksums.
        Inconclusive: its engine holds other weights than it was written with.
        PolicyViolated: the new engine is no copy of the model; then ``folder`` is left as it was.
    """
    source = open_source(path)
    return _write_measured(source, folder, lambda f: swap_into(source, exported, f))


def swap_into(source: ExportSource, exported: Path, folder: Path) -> None:
    """Write the engine and prove its weights; see ``swap``."""
    engine = _checked_engine(exported, source.base_sha256)
    swap_weights(engine, folder, source.model.denoiser.state_dict(), metadata=metadata(source))
    verify_identity(folder / MODEL_NAME, source.model.denoiser.state_dict())


def _checked_engine(exported: Path, base_sha256: str) -> Path:
    engine = exported
    certified_base = None
    if (exported / SUMS_NAME).exists():
        verify_checksums(exported)
        engine = denoiser_folder(exported)
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
    if made_from != base_sha256:
        raise UsageError(
            f"{exported}: its engine was made from base {made_from[:12]}, these weights from "
            f"{base_sha256[:12]}",
            "swap into an engine of the same base model",
        )
    written = stored.get("safe_sha256")
    if written is not None and read_precision(engine / MODEL_NAME) == "fp32":
        found = initializers_sha256(engine / MODEL_NAME)
        if found != written:
            raise UsageError(
                f"{exported}: its engine holds weights {found[:12]}, it was written with "
                f"{written[:12]}",
                "it was changed since; export it again",
            )
    return engine
