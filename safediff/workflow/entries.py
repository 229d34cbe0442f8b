"""Enters engines, and a single file, into an exported folder: manifest, certificates, checksums."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safediff.environment import environment
from safediff.export.engine_files import DATA_NAME, MODEL_NAME
from safediff.export.identity import tensor_sha256
from safediff.export.manifest import SCHEMA, gates_of, read_manifest, write_manifest
from safediff.export.part_parity import PartParity
from safediff.export.plan_sidecar import sidecar_path
from safediff.export.survival import Survival
from safediff.gate.verdict import GateReport
from safediff.models.patch import unet_sha256
from safediff.release.certificate import CERTIFICATE_NAME, is_certified
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.engines import (
    BY_ORIGINAL_NAME,
    BYTE_BY_BYTE,
    SINGLE_FILE_KIND,
    add_engines,
    how_proved,
)
from safediff.release.layout import make_readable, precision_of, write_derived
from safediff.release.weights import file_state_sha256
from safediff.workflow.engine_report import EngineReport
from safediff.workflow.engines import compared
from safediff.workflow.export_source import ExportSource

Json = dict[str, Any]

IN_PLAN = "source graph proved; {found} of {of} tensors found in the plan byte by byte"
REFITTED = "all set by name; {found} of {of} tensors found in the plan byte by byte"


def enter(
    folder: Path, source: ExportSource, engines: Sequence[Json], added: Sequence[Json]
) -> None:
    """Write manifest, certificates, what is derived from them, and checksums.

    The folder's other files are there. Card, bill of materials and gate statement name files by
    hash, so they would speak of an engine that is no longer there.

    Args:
        folder: A copy of the release.
        source: What was exported.
        engines: Entries of the manifest; one of the same path takes the place of an earlier one.
        added: Entries of the certificates, each of which also says what ``engines`` holds of its
            policy's gate; without a certificate they are kept nowhere else than in the manifest's
            ``parts``.

    Raises:
        UsageError: the certificate is of another version.
    """
    manifest = {**_header(source), "engines": [], "parts": []} | _earlier(folder)
    paths = {row["path"] for row in (*engines, *added)}
    kept = [row for row in manifest["engines"] if row["path"] not in paths]
    parts = [row for row in manifest.get("parts", []) if row["path"] not in paths]
    manifest["engines"] = [*engines, *kept]
    manifest["parts"] = [*parts, *(row for row in added if row["part"] != "unet")]
    write_manifest(folder, manifest)
    if is_certified(folder):
        add_engines(folder, added, paths, {row["path"]: gates_of(row) for row in engines})
        write_derived(folder, read_certificate(folder / CERTIFICATE_NAME))
    write_checksums(folder)
    make_readable(folder)


def _header(source: ExportSource) -> Json:
    return {
        "schema": SCHEMA,
        "created": _now(),
        "environment": dict(environment()),
        "policy": {
            "name": source.policy["name"],
            "concepts": [concept["name"] for concept in source.policy["concepts"]],
        },
        "base": {**source.policy["model"], "unet_sha256": source.base_sha256},
        "safe": {"unet_sha256": unet_sha256(source.model.denoiser)},
    }


def _earlier(folder: Path) -> Json:
    """What an earlier export wrote of engines that are still there.

    Read from the copy: what lies in the release by now was never checked.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return {}
    parts = [row for row in manifest.get("parts", []) if (folder / row["path"]).exists()]
    engines = [row for row in manifest["engines"] if (folder / row["path"]).exists()]
    return {"engines": engines, "parts": parts}


def certified_files(folder: Path) -> set[str]:
    """Hashes of the files that the certificate in ``folder`` speaks of; none without one."""
    if not is_certified(folder):
        return set()
    certificate = json.loads((folder / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    return {row["sha256"] for row in certificate["subject"]}


def onnx_engine(folder: Path, report: EngineReport, gated: Sequence[GateReport]) -> Json:
    """The manifest's entry of ``unet/model.onnx``."""
    path = folder / "unet" / MODEL_NAME
    sha256 = sha256_file(path)
    return {
        "kind": "onnx",
        "path": f"unet/{MODEL_NAME}",
        "sha256": sha256,
        "data_sha256": sha256_file(path.with_name(DATA_NAME)),
        "in_certificate": sha256 in certified_files(folder),
        **_gates(gated, sha256),
        **report.to_json(),
    }


def _gates(gated: Sequence[GateReport], sha256: str) -> Json:
    """The reports on an engine, bound to its bytes."""
    bound = [report.to_json() | {"bound_to": sha256} for report in gated]
    found: Json = {"gate": bound[0] if bound else None}
    return found | ({"more_gates": bound[1:]} if bound[1:] else {})


def added_unet(folder: Path, report: EngineReport) -> Json:
    """The certificate's entry of a UNet engine that it did not speak of."""
    unet = _onnx(folder, "unet", report.precision)
    parity = None
    if report.parity is not None:
        parity = compared(report.parity, report.survival, unet["path"]) | {"gate_rerun": False}
    return {
        **unet,
        "weights_sha256": report.weights_sha256,
        "weights": how_proved(report.precision),
        "parity": parity,
        "delta": _delta(report.survival),
        "gate": None,
    }


def _delta(survival: Survival | None) -> Json | None:
    """What rounding left of the edit; None where the base is not known."""
    return None if survival is None else survival.to_json()


def added_part(folder: Path, part: str, prefix: str, found: PartParity) -> Json:
    """The certificate's entry of a text encoder or decoder."""
    return {
        **_onnx(folder, part, found.precision),
        "weights_sha256": tensor_sha256(folder / part / MODEL_NAME, prefix),
        "weights": BYTE_BY_BYTE,
        "parity": found.to_json(),
        "gate": None,
    }


def added_single_file(folder: Path, name: str) -> Json:
    """The certificate's entry of one file that holds the weights of the whole model."""
    path = folder / name
    return {
        "path": name,
        "sha256": sha256_file(path),
        "files": {},
        "size_bytes": path.stat().st_size,
        "kind": SINGLE_FILE_KIND,
        "part": "model",
        "precision": precision_of(path),
        "added_at": _now(),
        "weights_sha256": file_state_sha256(path),
        "weights": BY_ORIGINAL_NAME,
        "parity": None,
        "plan": None,
        "gate": None,
    }


def _onnx(folder: Path, part: str, precision: str) -> Json:
    path, data = folder / part / MODEL_NAME, folder / part / DATA_NAME
    return {
        "path": f"{part}/{MODEL_NAME}",
        "sha256": sha256_file(path),
        "files": {f"{part}/{DATA_NAME}": sha256_file(data)} if data.exists() else {},
        "size_bytes": path.stat().st_size,
        "kind": "onnx",
        "part": part,
        "precision": precision,
        "added_at": _now(),
        "plan": None,
    }


def plan_engine(
    folder: Path,
    plan: Path,
    sidecar: Json,
    gated: Sequence[GateReport],
    survival: Survival | None,
) -> Json:
    """The manifest's entry of a plan."""
    told = ("kind", "sha256", "precision", "target", "module_version", "weights_sha256", "static")
    return {
        **{name: sidecar[name] for name in told},
        "built_on": sidecar.get("built_on"),
        "delta": _delta(survival),
        "path": plan.relative_to(folder).as_posix(),
        "data_sha256": sha256_file(sidecar_path(plan)),
        "in_certificate": is_certified(folder),
        **_gates(gated, sidecar["sha256"]),
    }


def added_plan(
    folder: Path, plan: Path, sidecar: Json, parity: Json | None, survival: Survival | None
) -> Json:
    """The certificate's entry of a plan: what it was built from; that it was run, if it was."""
    name, found = plan.relative_to(folder).as_posix(), sidecar["weights_found"]
    onnx = sidecar["source_onnx_sha256"]
    proof = REFITTED if "refitted_from" in sidecar else IN_PLAN
    return {
        "path": name,
        "sha256": sidecar["sha256"],
        "files": {f"{name}.json": sha256_file(sidecar_path(plan))},
        "size_bytes": sidecar["size_bytes"],
        "kind": sidecar["kind"],
        "part": "unet",
        "precision": sidecar["precision"],
        "added_at": _now(),
        "weights_sha256": sidecar["weights_sha256"],
        "weights": proof.format(**found),
        "parity": parity,
        "delta": _delta(survival),
        "plan": {
            "module_version": sidecar["module_version"],
            "target": sidecar["target"],
            "built_on": sidecar.get("built_on"),
            "refittable": sidecar["refittable"],
            "base_sha256": sidecar["base_sha256"],
            "source_onnx_sha256": onnx,
            "source_certified": onnx in certified_files(folder) and "refitted_from" not in sidecar,
            "weights_found": found,
        },
        "gate": None,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
