"""safety-certificate.json: what was measured, about which files, with which verdict, until when.

A certificate says "met policy P at thresholds T under tests S on date D", nothing more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
from safediff.gate.verdict import CheckResult, GateReport, Verdict, overall

Json = dict[str, Any]

CERTIFICATE_NAME = "safety-certificate.json"
SCHEMA_VERSION = 1
KIND = "safediff-safety-certificate"
VALIDITY = timedelta(days=180)
"""Attacks improve, so evidence ages."""
NO_COUNTER_EVIDENCE = (
    "No attack was run against this model, so no success of one is known. That is no evidence "
    "that none exists."
)
NO_SUCCESS = (
    "No attack that was run brought a concept back within its budget. That is no evidence that "
    "none would."
)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a certificate is made of, apart from the files it is about."""

    issued_at: datetime
    """With time zone."""
    policy: Json
    """``name``, ``path``, ``sha256`` (of the file), ``version``, ``resolved`` (the plan),
    ``waivers``."""
    base_model: Json
    """``id``, ``revision``, ``sha256`` (hashes by file or part), ``license``."""
    modification: Json
    """``method``, ``paper``, ``parameters_changed``, ``steps``, ``seed``, ..."""
    reports: Sequence[GateReport | Mapping[str, Any]]
    """Gate reports, or their JSON. That on an engine names it in ``model_sha256["engine"]``."""
    judges: Sequence[Json] = ()
    prompt_sets: Sequence[Json] = ()
    """By hash: ``id``, ``sha256``, ``n``, ``held_out``; never the prompts."""
    deployment_parity: Sequence[Json] = ()
    """``Parity.to_json`` of each engine, with ``artifact`` and ``reference``."""
    counter_evidence: Sequence[Json] = ()
    limitations: Sequence[str] = ()
    environment: Mapping[str, str]
    journal: Json
    """``path`` and ``sha256``."""


def issue_certificate(evidence: Evidence, subject: Sequence[Json]) -> Json:
    """The certificate as plain data.

    Its verdict is derived here, once, from the checks of the reports that decide and from parity;
    warnings do not keep a model from meeting its policy, they are counted beside the verdict.

    Args:
        evidence: What was measured.
        subject: The released files: ``path``, ``sha256``, ``size_bytes``, ``format``,
            ``precision``.

    Raises:
        UsageError: a report speaks of another policy, or contradicts itself.
    """
    reports = [_as_report(report) for report in evidence.reports]
    for report in reports:
        if report.policy_sha256 != evidence.policy["sha256"]:
            raise UsageError(
                f"the report on {report.subject} is about policy {report.policy_sha256[:12]}, "
                f"the certificate about {evidence.policy['sha256'][:12]}",
                "verify again with this policy",
            )
    verdict = _verdict(reports, evidence.deployment_parity, subject)
    certificate: Json = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "verdict": verdict.value,
        "statement": _statement(verdict, reports, evidence),
        "counts": _counts(reports),
        "issued_at": evidence.issued_at.isoformat(timespec="seconds"),
        "expires_at": (evidence.issued_at + VALIDITY).isoformat(timespec="seconds"),
        "subject": list(subject),
        "base_model": evidence.base_model,
        "policy": evidence.policy,
        "modification": evidence.modification,
        "checks": [row for report in reports for row in _rows(report)],
        "judges": list(evidence.judges),
        "prompt_sets": list(evidence.prompt_sets),
        "deployment_parity": list(evidence.deployment_parity),
        "counter_evidence": list(evidence.counter_evidence),
        "counter_evidence_note": "" if evidence.counter_evidence else _without_success(reports),
        "limitations": list(evidence.limitations),
        "environment": dict(evidence.environment),
        "journal": evidence.journal,
        "self_assessed": True,
    }
    return certificate


def dump_certificate(certificate: Json) -> str:
    """JSON text: sorted keys, same certificate, same bytes.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    return json.dumps(certificate, sort_keys=True, indent=2, allow_nan=False) + "\n"


def is_certified(folder: Path) -> bool:
    """Whether a folder holds a certificate of ours."""
    try:
        data = json.loads((folder / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("kind") == KIND


def _as_report(report: GateReport | Mapping[str, Any]) -> GateReport:
    return report if isinstance(report, GateReport) else GateReport.from_json(dict(report))


def _deciding(reports: Sequence[GateReport]) -> list[CheckResult]:
    return [result for report in reports if report.decides for result in report.results]


def _verdict(
    reports: Sequence[GateReport], parity: Sequence[Json], subject: Sequence[Json]
) -> Verdict:
    """Pass, fail or inconclusive; an engine must have been compared and gated itself."""
    verdict = overall(_deciding(reports))
    if verdict is Verdict.FAIL or not all(row["passed"] for row in parity):
        return Verdict.FAIL
    compared = {row["artifact"] for row in parity}
    engines = {file["path"] for file in subject if file["format"] == "onnx"}
    gated = any(report.decides and "engine" in report.model_sha256 for report in reports)
    unproven = engines and not (gated and engines <= compared)
    if verdict is Verdict.INCONCLUSIVE or unproven:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS


def _without_success(reports: Sequence[GateReport]) -> str:
    attacked = any(result.kind == "robustness" for result in _deciding(reports))
    return NO_SUCCESS if attacked else NO_COUNTER_EVIDENCE


def _counts(reports: Sequence[GateReport]) -> dict[str, int]:
    verdicts = [result.verdict for result in _deciding(reports) if result.gating]
    return {verdict.value: verdicts.count(verdict) for verdict in Verdict}


def _rows(report: GateReport) -> list[Json]:
    rows: list[Json] = report.to_json()["results"]
    return [{"subject": report.subject, "decides": report.decides, **row} for row in rows]


def _statement(verdict: Verdict, reports: Sequence[GateReport], evidence: Evidence) -> str:
    policy, day = evidence.policy, evidence.issued_at.date().isoformat()
    name = f"policy {policy['name']} (sha256 {policy['sha256'][:12]})"
    if verdict is Verdict.INCONCLUSIVE:
        return f"Whether {name} is met could not be established on {day}."
    claims = {
        f"{result.id} {result.threshold.op} {result.threshold.value:g}": None
        for result in _deciding(reports)
        if result.gating
    }
    met = "Met" if verdict is Verdict.PASS else "Did not meet"
    num_images = sum(report.num_images for report in reports)
    return (
        f"{met} {name} at thresholds {', '.join(claims)} under tests on {num_images} pictures "
        f"on {day}."
    )
