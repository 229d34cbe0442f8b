"""bom.cdx.json: the release as a CycloneDX 1.6 machine-learning bill of materials.

Everything in it comes from the certificate; so do its serial number and its time, so that the same
certificate gives the same bytes.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from safediff.release.certificate import dump_certificate
from safediff.release.certified_files import model_files
from safediff.release.claims import declarations, standards
from safediff.release.guarded import guarded

Json = dict[str, Any]
Certificate = Mapping[str, Any]

BOM_NAME = "bom.cdx.json"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MODEL_REF = "model"

_LICENSES = {"apache-2.0": "Apache-2.0", "mit": "MIT"}
"""Identifiers of model hubs that SPDX writes otherwise; others are given as names."""


def bill_of_materials(certificate: Certificate) -> Json:
    """The document as plain data."""
    text = dump_certificate(dict(certificate))
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid5(NAMESPACE_URL, text).urn,
        "version": 1,
        "metadata": {
            "timestamp": certificate["issued_at"],
            "tools": {"components": [_tool(certificate)]},
            "component": _model(certificate),
        },
        "components": [_base(certificate)],
        "dependencies": [
            {"ref": MODEL_REF, "dependsOn": ["base-model"]},
            {"ref": "base-model", "dependsOn": []},
        ],
        "definitions": standards(certificate),
        "declarations": declarations(certificate, MODEL_REF),
    }


def dump_bom(bom: Json) -> str:
    """JSON text: sorted keys."""
    return json.dumps(bom, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _tool(certificate: Certificate) -> Json:
    environment = certificate["environment"]
    return {
        "type": "application",
        "name": "safediff",
        "version": environment.get("safediff", "unknown"),
        "properties": _properties({f"environment:{k}": v for k, v in environment.items()}),
    }


def _model(certificate: Certificate) -> Json:
    policy = certificate["policy"]
    guard = guarded(policy["resolved"])
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL_REF,
        "name": f"{certificate['base_model']['id']}, policy {policy['name']}",
        "version": policy["sha256"][:12],
        "description": certificate["statement"],
        "licenses": _licenses(certificate),
        "components": _files(certificate),
        "pedigree": {
            "ancestors": [_ancestor(certificate)],
            "notes": _modified(certificate["modification"]),
        },
        "modelCard": _card(certificate),
        "properties": _properties(
            {
                "verdict": certificate["verdict"],
                "expires": certificate["expires_at"],
                "policy:sha256": policy["sha256"],
                "journal:sha256": certificate["journal"]["sha256"],
                **({"behind": guard.told} if guard else {}),
                **{f"checks:{name}": str(n) for name, n in certificate["counts"].items()},
            }
        ),
    }


def _files(certificate: Certificate) -> list[Json]:
    """Those of the release that are still there, and of the engines that were added to it."""
    kept = model_files(dict(certificate))
    files = [
        _file(row["path"], row["sha256"], {n: row[n] for n in ("format", "precision")})
        for row in certificate["subject"]
        if row["path"] in kept
    ]
    for row in certificate["engines"]:
        facts = {
            "format": row["kind"],
            "precision": row["precision"],
            "added": row["added_at"],
            "gate": row["gate"] or "not measured",
        }
        for path, sha256 in {row["path"]: row["sha256"], **row["files"]}.items():
            files.append(_file(path, sha256, facts))
    return files


def _file(path: str, sha256: str, facts: Mapping[str, str]) -> Json:
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "properties": _properties({name: str(value) for name, value in facts.items()}),
    }


def _base(certificate: Certificate) -> Json:
    return {**_ancestor(certificate), "bom-ref": "base-model"}


def _ancestor(certificate: Certificate) -> Json:
    base = certificate["base_model"]
    found: Json = {
        "type": "machine-learning-model",
        "name": base["id"],
        "licenses": _licenses(certificate),
        "properties": _properties(
            {f"weights:{part}:sha256": sha256 for part, sha256 in base["sha256"].items()}
        ),
    }
    return {**found, "version": base["revision"]} if base["revision"] else found


def _licenses(certificate: Certificate) -> list[Json]:
    name = certificate["base_model"]["license"]
    known = _LICENSES.get(name)
    return [{"license": {"id": known} if known else {"name": name}}]


def _modified(modification: Mapping[str, Any]) -> str:
    return (
        f"{modification['method']} ({modification['paper']}), preset {modification['preset']}: "
        f"{modification['parameters_changed']} parameters changed"
    )


def _card(certificate: Certificate) -> Json:
    deciding = [row for row in certificate["checks"] if row["decides"]]
    return {
        "modelParameters": {
            "task": "text-to-image",
            "architectureFamily": "latent diffusion",
            "approach": {"type": "supervised"},
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "image"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [_metric(r) for r in deciding if r["estimate"] is not None]
        },
        "considerations": {
            "technicalLimitations": list(certificate["limitations"]),
            "ethicalConsiderations": [_risk(row) for row in certificate["counter_evidence"]],
        },
    }


def _metric(row: Mapping[str, Any]) -> Json:
    ends = {"lowerBound": row["lower"], "upperBound": row["upper"]}
    return {
        "type": row["metric"],
        "value": f"{row['estimate']:.6g}",
        "slice": f"{row['subject']}: {row['id']}",
        "confidenceInterval": {k: f"{v:.6g}" for k, v in ends.items() if v is not None},
    }


def _risk(row: Mapping[str, Any]) -> Json:
    facts = ", ".join(f"{name} {value}" for name, value in row.items())
    return {"name": f"Known success against the model: {facts}"}


def _properties(facts: Mapping[str, str]) -> list[Json]:
    return [{"name": f"safediff:{name}", "value": value} for name, value in facts.items()]
