"""What is measured of an engine, and when it may be written at all."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safediff.errors import Inconclusive, PolicyViolated
from safediff.export.as_written import AsWritten
from safediff.export.comparison import compare_predictions
from safediff.export.engine_files import (
    DTYPES,
    MODEL_NAME,
    Precision,
    read_metadata,
    read_opset,
)
from safediff.export.extent import Extent, in_brief, in_full
from safediff.export.identity import initializers_sha256, read_precision
from safediff.export.parity import Parity
from safediff.export.providers import CPU_PROVIDER, CUDA_PROVIDER, refusal
from safediff.export.runtime import ExportedDenoiser, ExportedUNet, open_denoiser
from safediff.export.survival import Survival, measure_survival
from safediff.gate.verdict import CheckResult
from safediff.models.backbone import Backbone
from safediff.models.patch import state_sha256
from safediff.workflow.calibrate import CALIBRATION
from safediff.workflow.engines import closeness, edit_left
from safediff.workflow.export_source import ExportSource

NUM_LATENTS = 4
NOT_RUN = (
    "NOT RUN, no provider of ONNX Runtime here computes {precision}: its predictions were not "
    "compared, it is not gated, and nothing is claimed of what it draws"
)


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What was measured of a written engine."""

    precision: Precision
    opset: int
    weights_sha256: str
    """Of the initializers; that of the UNet's state for fp32."""
    parity: Parity | None
    """None where nothing here computes in this precision; then nothing is claimed of it."""
    survival: Survival | None
    """None where the base is not known here."""
    calibration: dict[str, Any] | None = None
    """Of an int8 engine: what was calibrated on, and which layers stay fp32."""
    swapped: bool = False
    """Whether its graph was compared before, with other weights, and now in brief."""

    @property
    def passed(self) -> bool:
        """Whether the engine is close enough to the UNet, and the edit is still in it."""
        return self.close and (self.survival is None or self.survival.survives)

    @property
    def close(self) -> bool:
        """Whether it was found not to compute something else."""
        return self.parity is None or self.parity.passed

    @property
    def checks(self) -> list[CheckResult]:
        """The same, as rows of a gate that is run on the engine."""
        left = [] if self.survival is None else [edit_left(self.survival)]
        compared = [] if self.parity is None else [closeness(self.parity)]
        return [*compared, *left]

    @property
    def line(self) -> str:
        """For the user."""
        margin = None if self.parity is None else self.parity.margin_ratio
        parts = [
            f"{self.precision}, opset {self.opset}, weights identical "
            f"(initializers {self.weights_sha256[:12]})",
            NOT_RUN.format(precision=self.precision)
            if self.parity is None
            else f"differs from PyTorch by at most {self.parity.worst_max_abs:.1e} standard "
            f"deviations, {'within' if self.parity.passed else 'OUTSIDE'} its limits",
        ]
        if self.swapped and self.parity is not None:
            parts.append(
                f"compared in brief ({self.parity.engine_calls} calls, latents of side "
                f"{self.parity.side}), its graph is one that was exported before"
            )
        if self.calibration is not None:
            parts.append(self.calibration["line"])
        if margin is not None:
            parts.append(f"{margin:.1e} of the way back to the base")
        if self.survival is not None:
            parts.append(_told(self.survival))
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {
            "precision": self.precision,
            "opset": self.opset,
            "weights_sha256": self.weights_sha256,
            "parity": None if self.parity is None else self.parity.to_json(),
            "delta": None if self.survival is None else self.survival.to_json(),
            "margin_ratio": None if self.parity is None else self.parity.margin_ratio,
            "calibration": self.calibration,
            "swapped": self.swapped,
            "passed": None if self.parity is None else self.passed,
        }


def require_passed(report: EngineReport, folder: Path, *, gated: bool = False) -> None:
    """Refuse an engine that computes something else, or has lost the edit in rounding.

    The first is a failed check of every policy. The second is one where nothing else is measured;
    a gate that draws with the engine tells more, and takes it as a warning.

    Raises:
        PolicyViolated: nothing is to be written to ``folder``.
        Inconclusive: it can't be run here, and was to be gated.
    """
    if gated and report.parity is None:
        raise Inconclusive(
            f"{folder}: not written, no provider of ONNX Runtime here computes {report.precision}, "
            "so nothing can be drawn with it",
            "gate it where CUDAExecutionProvider is, or export without --gate",
        )
    if report.passed or (gated and report.close):
        return
    raise _failed(folder, report.line, "" if gated else "--full --gate POLICY")


def require_edit_left(
    survival: Survival | None, folder: Path, *, gated: bool = False, gate_by: str = "--gate POLICY"
) -> None:
    """The same of a plan, before it is built: only what rounding leaves of the edit is known yet.

    Args:
        survival: ``left_of_edit``; None: nothing is known.
        folder: What is not written then.
        gated: A gate draws with the plan, and decides.
        gate_by: With which options one would.

    Raises:
        PolicyViolated: rounding has drowned the edit.
    """
    if survival is not None and not (survival.survives or gated):
        raise _failed(folder, f"{survival.precision}; {_told(survival)}", gate_by)


def _failed(folder: Path, told: str, gate_by: str) -> PolicyViolated:
    return PolicyViolated(
        f"{folder}: not written, the engine failed its checks: {told}",
        "choose another --precision"
        + (f"; with {gate_by} the gate decides on a drowned edit" if gate_by else ""),
    )


def _told(survival: Survival) -> str:
    state = "survives" if survival.survives else "DROWNS IN ROUNDING"
    return f"edit {state} (lowest cosine {survival.min_cosine:.2f})"


def measure_engine(source: ExportSource, folder: Path, *, swapped: bool = False) -> EngineReport:
    """Compare an engine with PyTorch, on erased and kept prompts; what is left of the edit.

    Args:
        source: What it was made of.
        folder: Engine folder.
        swapped: Its graph is that of an engine which was compared before, and its weights were
            proved: it is compared in brief.
    """
    path = folder / MODEL_NAME
    precision = read_precision(path)
    record = read_metadata(path).get(CALIBRATION)
    calibration = None if record is None else json.loads(record)
    exact = [] if calibration is None else calibration["kept_fp32"]
    return EngineReport(
        precision=precision,
        opset=read_opset(path),
        weights_sha256=_proved(source, path) if swapped else initializers_sha256(path),
        parity=_compared(source, folder, precision, in_brief(source.model) if swapped else None),
        survival=left_of_edit(source, precision, exact),
        calibration=calibration,
        swapped=swapped,
    )


def _proved(source: ExportSource, path: Path) -> str:
    """``initializers_sha256`` of an engine that was proved to hold the source's weights."""
    precision = read_precision(path)
    if precision == "fp32":
        return read_metadata(path)["safe_sha256"]
    return state_sha256(source.model.denoiser.state_dict(), DTYPES[precision])


def _compared(
    source: ExportSource, folder: Path, precision: Precision, extent: Extent | None
) -> Parity | None:
    """None in bf16 where there is no GPU's provider: that of the CPU has no such operators.

    ``extent``: None for the full one. In brief opening a session would take longer than its calls.
    """
    provider = CPU_PROVIDER
    if precision == "bf16":
        if refusal(CUDA_PROVIDER) is not None:
            return None
        provider = CUDA_PROVIDER
    threads = torch.get_num_threads()
    opened: ExportedDenoiser
    if extent is not None and provider == CPU_PROVIDER and source.model.component == "unet":
        opened = ExportedUNet(folder, session=AsWritten(folder / MODEL_NAME, threads))
    else:
        opened = open_denoiser(folder, provider=provider, num_threads=threads)
    return compare(source, source.model.with_denoiser(opened), precision, extent)


def compare(
    source: ExportSource, engine: Backbone, precision: Precision, extent: Extent | None = None
) -> Parity:
    """Noise predictions of an engine against PyTorch's, to the full extent if none is given."""
    return compare_predictions(
        engine,
        source.model,
        source.base,
        erased=source.erased_prompts,
        kept=source.kept_prompts,
        extent=in_full(source.model, NUM_LATENTS) if extent is None else extent,
        precision=precision,
        seed=0,
    )


def left_of_edit(
    source: ExportSource, precision: Precision, exact: Collection[str] = ()
) -> Survival | None:
    """What rounding leaves of the edit; None where the base is not known here."""
    if source.base is None:
        return None
    states = source.base.denoiser.state_dict(), source.model.denoiser.state_dict()
    return measure_survival(*states, precision, exact)
