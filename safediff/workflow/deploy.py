"""``safediff export --full``: a release with every part as an engine, in one folder.

The folder is loaded unchanged by diffusers (weights), by optimum's ONNX pipelines (engines) and by
``safediff serve``. It is a copy of the release, and its certificate is the release's with an entry
for each engine that was added, and for a single file; the manifest holds the gate reports on
engines.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from safediff.export.engine_files import DATA_NAME, MODEL_NAME, Precision
from safediff.export.identity import verify_identity
from safediff.export.manifest import is_exported
from safediff.export.single_file import write_single_file
from safediff.export.single_file_proof import verify_single_file
from safediff.export.to_triton import REPOSITORY, write_repository
from safediff.folders import new_folder
from safediff.gate.verdict import GateReport
from safediff.models.patch import unet_sha256
from safediff.release.copying import copy_checked, require_outside
from safediff.release.layout import write_model
from safediff.workflow.calibrate import MAX_ERROR
from safediff.workflow.deploy_parts import write_parts
from safediff.workflow.engine_gate import gates_line, measure_gate, require_met, same_policy
from safediff.workflow.engine_report import EngineReport, measure_engine, require_passed
from safediff.workflow.engines import require_unet
from safediff.workflow.entries import added_single_file, added_unet, enter, onnx_engine
from safediff.workflow.export import check_engine, require_opset, swap_into, write_engine
from safediff.workflow.export_source import ExportSource, open_source

Layout = Literal["triton", "single-file"]
LAYOUTS: tuple[Layout, ...] = ("triton", "single-file")
SINGLE_FILE = "model.safetensors"
WriteEngine = Callable[[Path], None]
Gate = Callable[[Path, EngineReport], GateReport]
"""Measures the policy on an engine folder, beside what was measured of it already."""


def deploy_run(
    path: Path,
    folder: Path,
    precision: Precision,
    opset: int,
    layouts: tuple[Layout, ...] = (),
    graph_of: Path | None = None,
    policies: Sequence[Path] = (),
    max_error: float = MAX_ERROR,
) -> "Deployed":
    """``deploy`` for the command line.

    Args:
        path: A run or release.
        folder: The folder to write.
        precision: Of the UNet; with ``graph_of`` that of its engine (``kept_of_engine``).
        opset: Of the graphs; with ``graph_of`` the same.
        layouts: Further forms.
        graph_of: Engine or release whose graph is taken.
        policies: Policies to measure on the engine, each one of the source's.
        max_error: What int8 may cost (``calibrate``).

    Raises:
        UsageError: ``path`` is neither run nor release, a policy is another one, or the denoiser
            is a transformer.
        Inconclusive: something can't be exported, measured or written.
        PolicyViolated: the engine failed a check; then ``folder`` is left as it was.
    """
    if graph_of is None:
        require_opset(precision, opset)
    source = open_source(path)
    require_unet(source.model, "--full")
    plans = [same_policy(source, policy) for policy in policies]
    engine: WriteEngine
    if graph_of is None:
        engine = partial(
            write_engine, source, precision=precision, opset=opset, max_error=max_error
        )
    else:
        engine = partial(swap_into, source, check_engine(graph_of))
    gates = [partial(measure_gate, plan, source) for plan in plans]
    return deploy(
        *(source, folder, precision, opset),
        layouts=layouts,
        engine=engine,
        swapped=graph_of is not None,
        gates=gates,
    )


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What was written and measured."""

    engine: EngineReport
    gates: tuple[GateReport, ...]
    """Of each policy that was measured on it."""
    line: str
    """For the user."""


def deploy(
    source: ExportSource,
    folder: Path,
    precision: Precision,
    opset: int,
    *,
    layouts: tuple[Layout, ...] = (),
    engine: WriteEngine | None = None,
    swapped: bool = False,
    gates: Sequence[Gate] = (),
) -> Deployed:
    """Write the folder; it appears when all of it is there.

    Args:
        source: The verified model.
        folder: An earlier export there is replaced.
        precision: Of the UNet; text encoders and decoder are fp16 for fp16, else fp32. A decoder
            that overflows in fp16 is always fp32.
        opset: Of the graphs.
        layouts: Further forms of the same weights.
        engine: Writes the UNet's engine folder; None exports one.
        swapped: It takes a graph that was compared before; see ``measure_engine``.
        gates: Run on the engine, one a policy; their reports go into the manifest if they passed,
            else the first that did not into ``<folder>.gate.json``.

    Raises:
        UsageError: ``folder`` is something else or lies in a release, or the source's release was
            changed after it was checked.
        Inconclusive: something can't be exported, decided or written.
        PolicyViolated: the engine failed a check; then ``folder`` is left as it was.
    """
    require_outside(folder, source.release)
    with new_folder(folder, is_exported, "an exported release") as out:
        _copy_model(source, out)
        unet = out / ".unet"
        if engine is None:
            write_engine(source, unet, precision, opset)
        else:
            engine(unet)
        verify_identity(unet / MODEL_NAME, source.model.denoiser.state_dict())
        report = measure_engine(source, unet, swapped=swapped)
        require_passed(report, folder, gated=bool(gates))
        gated = []
        for gate in gates:
            gated.append(gate(unet, report))
            require_met(gated[-1], folder)
        for name in (MODEL_NAME, DATA_NAME):
            shutil.copyfile(unet / name, out / "unet" / name)
        shutil.rmtree(unet)
        added = write_parts(source, out, folder, precision, opset)
        entry = onnx_engine(out, report, gated)
        if not entry["in_certificate"]:
            added.append(added_unet(out, report))
        if "triton" in layouts:
            sha256 = unet_sha256(source.model.denoiser)
            write_repository(out / REPOSITORY, out / "unet", sha256)
        if "single-file" in layouts:
            verify_single_file(write_single_file(out / SINGLE_FILE, source.model), out)
            added.append(added_single_file(out, SINGLE_FILE))
        enter(out, source, [entry], added)
    line = f"{report.line}; {gates_line(source, gated)}" if gated else report.line
    return Deployed(engine=report, gates=tuple(gated), line=line)


def _copy_model(source: ExportSource, out: Path) -> None:
    if source.release is None:
        write_model(out, source.model)
    else:
        copy_checked(source.release, source.stamps, out, MODEL_NAME, DATA_NAME)
        shutil.rmtree(out / REPOSITORY, ignore_errors=True)  # it served the earlier engine
