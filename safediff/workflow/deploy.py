"""``safediff export --full``: a release with every part as an engine, in one folder.

The folder is loaded unchanged by diffusers (weights), by optimum's ONNX pipelines (engines) and by
``safediff serve``. It is a copy of the release, so its certificate is the release's; the manifest
says which engines that certificate covers and what was measured of the others.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from safediff.environment import environment
from safediff.errors import Inconclusive, PolicyViolated, UsageError
from safediff.export.manifest import MANIFEST_NAME, SCHEMA, is_exported, write_manifest
from safediff.export.parts import (
    DECODER_FOLDER,
    TEXT_FOLDER,
    TEXT_PREFIX,
    VAE_PREFIX,
    decoder_state,
    export_text_encoder,
    export_vae_decoder,
)
from safediff.export.runtime import ExportedUNet
from safediff.export.single_file import write_single_file
from safediff.export.to_onnx import (
    CONFIG_NAME,
    DATA_NAME,
    DTYPES,
    MODEL_NAME,
    Precision,
    initializers_sha256,
    verify_identity,
)
from safediff.export.to_triton import write_repository
from safediff.folders import new_folder
from safediff.gate.verdict import GateReport, Verdict
from safediff.models.patch import unet_sha256
from safediff.policy.load import load_plan
from safediff.policy.plan import Plan
from safediff.release.certificate import CERTIFICATE_NAME, is_certified
from safediff.release.checksums import UNLISTED, sha256_file, write_checksums
from safediff.release.layout import write_model
from safediff.verify.verification import Verification
from safediff.workflow.calibrate import MAX_ERROR
from safediff.workflow.engines import ENGINE, require_unet
from safediff.workflow.export import (
    EngineReport,
    measure_engine,
    require_passed,
    swap_into,
    write_engine,
)
from safediff.workflow.export_source import ExportSource, open_source

Layout = Literal["triton", "single-file"]
LAYOUTS: tuple[Layout, ...] = ("triton", "single-file")
SINGLE_FILE = "model.safetensors"
FAILED_GATE = ".gate.json"
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
    policy: Path | None = None,
    max_error: float = MAX_ERROR,
) -> "Deployed":
    """``deploy`` for the command line.

    Args:
        path: A run or release.
        folder: The folder to write.
        precision: Of the UNet; with ``graph_of`` the precision of that engine is kept.
        opset: Of the graphs.
        layouts: Further forms.
        graph_of: Engine or release whose graph is taken.
        policy: Policy to measure on the engine; its hash must be that of the source's.
        max_error: What int8 may cost (``calibrate``).

    Raises:
        UsageError: ``path`` is neither run nor release, the policy is another one, or the denoiser
            is a transformer.
        Inconclusive: something can't be exported, measured or written.
        PolicyViolated: the engine failed a check; then ``folder`` is left as it was.
    """
    source = open_source(path)
    require_unet(source.model, "--full")
    plan = None if policy is None else _same_policy(source, policy)
    engine: WriteEngine
    if graph_of is None:
        engine = partial(
            write_engine, source, precision=precision, opset=opset, max_error=max_error
        )
    else:
        engine = partial(swap_into, source, graph_of)
    gate = None if plan is None else partial(measure_gate, plan, source)
    return deploy(source, folder, precision, opset, layouts=layouts, engine=engine, gate=gate)


def _same_policy(source: ExportSource, policy: Path) -> Plan:
    plan = load_plan(policy)
    if plan.to_json() != source.policy:
        raise UsageError(
            f"{policy}: is not the policy that {source.path} was erased by, or has changed since",
            "give that policy, or erase again",
        )
    return plan


def measure_gate(
    plan: Plan, source: ExportSource, engine: Path, measured: EngineReport
) -> GateReport:
    """The policy's checks on an engine folder, drawn anew against the base.

    Raises:
        Inconclusive: the base is not known here, or there is no judge.
    """
    if source.base is None:
        raise Inconclusive(
            f"{source.path}: its base model can't be loaded here, so there is nothing to compare",
            "export where the base model is",
        )
    compiled = source.model.with_denoiser(ExportedUNet(engine, num_threads=torch.get_num_threads()))
    hashes = {"base": source.base_sha256, "engine": initializers_sha256(engine / MODEL_NAME)}
    with (
        tempfile.TemporaryDirectory() as work,
        Verification(plan, source.base, source.base_sha256, Path(work)) as verification,
    ):
        return verification.measure(ENGINE, compiled, hashes, extra=measured.checks)[0]


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What was written and measured."""

    engine: EngineReport
    gate: GateReport | None

    @property
    def line(self) -> str:
        """For the user."""
        if self.gate is None:
            return self.engine.line
        return f"{self.engine.line}; gate: {self.gate.verdict.value}"


def deploy(
    source: ExportSource,
    folder: Path,
    precision: Precision,
    opset: int,
    *,
    layouts: tuple[Layout, ...] = (),
    engine: WriteEngine | None = None,
    gate: Gate | None = None,
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
        gate: Run on the engine; its report goes into the manifest if it passed, else into
            ``<folder>.gate.json``.

    Raises:
        UsageError: ``folder`` is something else.
        Inconclusive: something can't be exported, decided or written.
        PolicyViolated: the engine failed a check; then ``folder`` is left as it was.
    """
    if source.release is not None and folder.absolute() == source.release.absolute():
        raise UsageError(f"{folder}: is the release that is read", "write to another folder")
    with new_folder(folder, is_exported, "an exported release") as out:
        _copy_model(source, out)
        unet = out / ".unet"
        if engine is None:
            write_engine(source, unet, precision, opset)
        else:
            engine(unet)
        verify_identity(unet / MODEL_NAME, source.model.denoiser.state_dict())
        report = measure_engine(source, unet)
        require_passed(report, folder, gated=gate is not None)
        gated = None if gate is None else gate(unet, report)
        if gated is not None:
            _require_met(gated, folder)
        for name in (MODEL_NAME, DATA_NAME):
            shutil.copyfile(unet / name, out / "unet" / name)
        shutil.rmtree(unet)
        _write_parts(source, out, precision, opset)
        manifest = _manifest(source, out, report, gated)
        if "triton" in layouts:
            write_repository(out / "triton", out / "unet", manifest["safe"]["unet_sha256"])
        if "single-file" in layouts:
            write_single_file(out / SINGLE_FILE, source.model)
        write_manifest(out, manifest)
        write_checksums(out)
    return Deployed(engine=report, gate=gated)


def _require_met(gated: GateReport, folder: Path) -> None:
    """An engine that failed its gate leaves its report, and nothing that could be served."""
    told = folder.with_name(f"{folder.name}{FAILED_GATE}")
    told.unlink(missing_ok=True)
    if gated.verdict.exit_code == 0:
        return
    told.write_text(json.dumps(gated.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    name, next_step = gated.policy_name, f"read {told}"
    if gated.verdict is Verdict.FAIL:
        raise PolicyViolated(f"{folder}: not written, policy {name} is not met", next_step)
    raise Inconclusive(
        f"{folder}: not written, whether policy {name} is met could not be decided", next_step
    )


def _copy_model(source: ExportSource, out: Path) -> None:
    if source.release is None:
        write_model(out, source.model)
    else:
        left_out = shutil.ignore_patterns(*UNLISTED, MODEL_NAME, DATA_NAME, MANIFEST_NAME)
        shutil.copytree(source.release, out, dirs_exist_ok=True, ignore=left_out)


def _write_parts(source: ExportSource, out: Path, precision: Precision, opset: int) -> None:
    """Text encoders and decoder, proved to hold the weights that PyTorch was measured with."""
    model, decoder = source.model, out / DECODER_FOLDER
    dtype = DTYPES["fp16" if precision == "fp16" else "fp32"]
    for name, part in model.components().items():
        if name.startswith(TEXT_FOLDER):
            path = export_text_encoder(
                *(part, out / name, model.num_tokens, dtype, opset),
                hidden_states=model.reads_inner_states,
            )
            verify_identity(path, part.state_dict(), TEXT_PREFIX)
    path = export_vae_decoder(
        model.vae, decoder, torch.float32 if model.decodes_in_float32 else dtype, opset
    )
    verify_identity(path, decoder_state(model.vae.state_dict()), VAE_PREFIX)
    shutil.copyfile(out / "vae" / CONFIG_NAME, decoder / CONFIG_NAME)


def _manifest(
    source: ExportSource, out: Path, report: EngineReport, gated: GateReport | None
) -> dict[str, Any]:
    path = out / "unet" / MODEL_NAME
    sha256 = sha256_file(path)
    engine = {
        "kind": "onnx",
        "path": f"unet/{MODEL_NAME}",
        "sha256": sha256,
        "data_sha256": sha256_file(path.with_name(DATA_NAME)),
        "in_certificate": sha256 in certified_files(out),
        "gate": None if gated is None else gated.to_json() | {"bound_to": sha256},
        **report.to_json(),
    }
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": dict(environment()),
        "policy": {
            "name": source.policy["name"],
            "concepts": [concept["name"] for concept in source.policy["concepts"]],
        },
        "base": {**source.policy["model"], "unet_sha256": source.base_sha256},
        "safe": {"unet_sha256": unet_sha256(source.model.denoiser)},
        "engines": [engine],
    }


def certified_files(folder: Path) -> set[str]:
    """Hashes of the files that the certificate in ``folder`` speaks of; none without one."""
    if not is_certified(folder):
        return set()
    certificate = json.loads((folder / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    return {row["sha256"] for row in certificate["subject"]}
