"""The certificate's claims in the words of CycloneDX: requirements, claims, evidence, conformance.

The policy is the standard and each deciding check one of its requirements. Conformance says whether
a requirement was met; the confidence that CycloneDX asks for is that of the check's interval.
"""

from collections.abc import Mapping
from typing import Any

from safediff.gate.verdict import Verdict
from safediff.release.gate_statement import STATEMENT_NAME

Json = dict[str, Any]
Certificate = Mapping[str, Any]

_SCORES = {Verdict.PASS: 1.0, Verdict.WARN: 1.0}
"""What is waived or undecided was not met."""


def standards(certificate: Certificate) -> Json:
    """The policy as a standard."""
    policy = certificate["policy"]
    return {
        "standards": [
            {
                "bom-ref": "policy",
                "name": f"policy {policy['name']}",
                "version": policy["sha256"],
                "requirements": [
                    {
                        "bom-ref": _ref("requirement", row),
                        "identifier": f"{row['subject']}: {row['id']}",
                        "title": row["metric"],
                        "text": _limit(row),
                    }
                    for row in _deciding(certificate)
                ],
            }
        ]
    }


def declarations(certificate: Certificate, model: str) -> Json:
    """Who claims what of the model, on which evidence, and what speaks against it.

    Args:
        certificate: where it comes from.
        model: reference of the model's component.
    """
    counter = [
        _evidence(f"counter-evidence:{i}", "known success of an attack", str(row), certificate)
        for i, row in enumerate(certificate["counter_evidence"])
    ]
    rows = _deciding(certificate)
    return {
        "assessors": [
            {"bom-ref": "assessor", "thirdParty": not certificate["self_assessed"]},
        ],
        "claims": [_claim(row, model, [entry["bom-ref"] for entry in counter]) for row in rows],
        "evidence": [
            *(
                _evidence(_ref("evidence", row), "check", row["message"], certificate)
                for row in rows
            ),
            *counter,
        ],
        "attestations": [
            {
                "summary": certificate["statement"],
                "assessor": "assessor",
                "map": [_mapped(row) for row in rows],
            }
        ],
    }


def _deciding(certificate: Certificate) -> list[Mapping[str, Any]]:
    return [row for row in certificate["checks"] if row["decides"] and row["gating"]]


def _ref(kind: str, row: Mapping[str, Any]) -> str:
    return f"{kind}:{row['subject']}:{row['id']}"


def _limit(row: Mapping[str, Any]) -> str:
    limit = row["threshold"]
    return f"{limit['bound']} {limit['op']} {limit['value']:g}"


def _claim(row: Mapping[str, Any], model: str, counter: list[str]) -> Json:
    attacked = row["kind"] in ("erasure", "robustness")
    found: Json = {
        "bom-ref": _ref("claim", row),
        "target": model,
        "predicate": f"{row['metric']}: {_limit(row)}",
        "reasoning": row["message"],
        "evidence": [_ref("evidence", row)],
    }
    return {**found, "counterEvidence": counter} if counter and attacked else found


def _evidence(ref: str, name: str, text: str, certificate: Certificate) -> Json:
    return {
        "bom-ref": ref,
        "propertyName": name,
        "description": text,
        "created": certificate["issued_at"],
        "expires": certificate["expires_at"],
        "data": [
            {
                "name": certificate["journal"]["path"],
                "contents": {"url": certificate["journal"]["path"]},
            },
            {"name": STATEMENT_NAME, "contents": {"url": STATEMENT_NAME}},
        ],
    }


def _mapped(row: Mapping[str, Any]) -> Json:
    return {
        "requirement": _ref("requirement", row),
        "claims": [_ref("claim", row)],
        "conformance": {
            "score": _SCORES.get(row["verdict"], 0.0),
            "rationale": f"{row['verdict']}: {row['message']}",
        },
        "confidence": {"score": row["confidence"] or 0.0, "rationale": row["interval"]},
    }
