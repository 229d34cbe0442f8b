"""Engines that were added to a release after its certificate was issued.

The certificate's verdict speaks of what was measured then. What is compiled later gets an entry of
its own in ``engines``: which weights it holds and how that was proved, and whether it was ever run
or gated. A single file of the same weights gets one, too. A release may hold no plan, graph or
weights without such an entry.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safediff.export.manifest import MANIFEST_NAME, gates_of
from safediff.release.certificate import CERTIFICATE_NAME, dump_certificate
from safediff.release.checksums import sha256_file

Json = dict[str, Any]

ENGINES_FOLDER, PLAN_SUFFIX = "engines", ".plan"
PLAN_KINDS = ("tensorrt", "tensorrt_rtx")
UNET_GRAPH = "unet/model.onnx"

BYTE_BY_BYTE = "every initializer compared byte by byte with the certified weights, cast"
QUANTISED_ANEW = "every initializer compared with what quantising the certified weights gives"
"""How it is proved that an ONNX engine holds the certified weights."""

SINGLE_FILE_KIND = "safetensors"
"""Of the entry of one file with the weights of the whole model, which is no engine."""
BY_ORIGINAL_NAME = (
    "every tensor compared byte by byte with the certified weights, by its original name"
)


def how_proved(precision: str) -> str:
    """Of an engine in a precision, in words."""
    return QUANTISED_ANEW if precision.startswith("int8") else BYTE_BY_BYTE


def certificate_names(names: Sequence[str] | Mapping[str, str]) -> list[str]:
    """Of the certificates in a release, that of the folder first.

    A model that combines policies has one of each.
    """
    others = sorted(name for name in names if name.endswith(f"/{CERTIFICATE_NAME}"))
    return [name for name in (CERTIFICATE_NAME, *others) if name in names]


def add_engines(
    folder: Path,
    rows: Sequence[Json],
    replaced: Collection[str],
    gates: Mapping[str, Sequence[Json]],
) -> None:
    """Enter engines into every certificate of a folder; the checksums are left to the caller.

    Args:
        folder: The release.
        rows: ``AddedEngine`` of the schema, as if nobody had gated them.
        replaced: Paths of which earlier entries no longer hold.
        gates: Gate reports by path; each is entered in the certificate of its policy alone.
    """
    for name in certificate_names([p.relative_to(folder).as_posix() for p in folder.rglob("*")]):
        path = folder / name
        certificate = json.loads(path.read_text(encoding="utf-8"))
        earlier = certificate.get("engines", [])
        kept = [row for row in earlier if row["path"] not in replaced]
        own = [_gated(row, own_gate(certificate, gates.get(row["path"], ()))) for row in rows]
        engines = sorted([*kept, *own], key=lambda row: str(row["path"]))
        if engines != earlier:
            extends = certificate.get("extends") or sha256_file(path)
            extended = {**certificate, "engines": engines, "extends": extends}
            path.write_text(dump_certificate(extended), encoding="utf-8")


def own_gate(certificate: Json, gates: Sequence[Json]) -> Json | None:
    """Among gate reports on an engine, that of the certificate's own policy."""
    policy = certificate["policy"]
    own = policy.get("name"), policy.get("sha256")
    found = (g for g in gates if (g.get("policy_name"), g.get("policy_sha256")) == own)
    return next(found, None)


def _gated(row: Json, gate: Json | None) -> Json:
    if gate is None:
        return row
    parity = row["parity"] and {**row["parity"], "gate_rerun": True}
    return {**row, "gate": gate["verdict"], "parity": parity}


def gate_problems(certificate: Json, manifest: Json | None) -> Iterator[str]:
    """Added engines whose entry says another gate than the report on their bytes, in words.

    Args:
        certificate: Its entries say a gate's verdict alone.
        manifest: Of its folder, which holds the reports; None: there are none.

    Raises:
        KeyError, TypeError, AttributeError: the manifest lacks what each has.
    """
    reports = [
        (engine["sha256"], gate)
        for engine in (manifest["engines"] if manifest else ())
        for gate in gates_of(engine)
        if gate["bound_to"] == engine["sha256"]
    ]
    for row in certificate["engines"]:
        own = own_gate(certificate, [gate for sha256, gate in reports if sha256 == row["sha256"]])
        found = None if own is None else own["verdict"]
        if row["gate"] != found:
            said = f"the certificate says gate {row['gate'] or 'not measured'}"
            yield f"{row['path']}: {said}, {MANIFEST_NAME} {found or 'holds no report on it'}"


def added_plans(certificate: Json) -> list[Json]:
    """The entries of plans."""
    return [row for row in certificate.get("engines", []) if row["kind"] in PLAN_KINDS]


def engine_problems(folder: Path, certificate: Json, sums: Mapping[str, str]) -> Iterator[str]:
    """What of the added engines is not as the certificate says, in words; nothing is opened.

    Args:
        folder: The release.
        certificate: Its certificate.
        sums: Hashes of its files, which were just compared.
    """
    rows = {row["path"]: row for row in certificate.get("engines", [])}
    plans = {row["sha256"] for row in added_plans(certificate)}
    for name in sorted(sums):
        if name.endswith(PLAN_SUFFIX) and sums[name] not in plans:
            known = "another plan than" if name in rows else "a plan that is not among those that"
            yield f"{name} is {known} the certificate speaks of"
    for path, row in rows.items():
        for name, sha256 in {path: row["sha256"], **row["files"]}.items():
            if sums.get(name) != sha256 and not name.endswith(PLAN_SUFFIX):
                yield f"{name} is not the file that the certificate speaks of"
        if row["kind"] not in PLAN_KINDS:
            continue
        if path not in sums:
            yield f"{path} is missing, the certificate speaks of it"
        elif sums[path] == row["sha256"]:
            yield from _plan_problems(folder, certificate, row)


def _plan_problems(folder: Path, certificate: Json, row: Json) -> Iterator[str]:
    """What a plan was built from, by its sidecar, against the certificate."""
    path, plan = row["path"], row["plan"]
    try:
        sidecar = json.loads((folder / f"{path}.json").read_text(encoding="utf-8"))
        said = {name: sidecar[name] for name in ("sha256", "weights_sha256", "kind", "precision")}
        made = {name: sidecar[name] for name in ("base_sha256", "source_onnx_sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}.json is no sidecar of a plan ({type(error).__name__})"
        return
    for name, value in said.items():
        if row[name] != value:
            yield f"{path}: its sidecar says {name} {value[:12]}, the certificate {row[name][:12]}"
    for name in ("module_version", "target", "refittable", "weights_found"):
        if plan[name] != sidecar.get(name):
            yield f"{path}: its sidecar and the certificate say different things of {name}"
    base = certificate["base_model"]["sha256"]["unet"]
    if {made["base_sha256"], plan["base_sha256"]} != {base}:
        yield (
            f"{path} is a plan of base {made['base_sha256'][:12]}, the certificate speaks of "
            f"{base[:12]}"
        )
    graph = {file["path"]: file["sha256"] for file in certificate["subject"]}.get(UNET_GRAPH)
    differs = plan["source_certified"] and made["source_onnx_sha256"] != graph
    if differs or made["source_onnx_sha256"] != plan["source_onnx_sha256"]:
        yield (
            f"{path} was built from {UNET_GRAPH} {made['source_onnx_sha256'][:12]}, the "
            f"certificate speaks of {(graph or plan['source_onnx_sha256'])[:12]}"
        )
