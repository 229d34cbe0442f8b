"""safety-certificate.json: what was measured, about which files, with which verdict, until when.

A certificate says "met policy P at thresholds T under tests S on date D", nothing more. What it
derives from other parts of itself is derived by ``derived`` alone, so that whoever recounts the
evidence derives the same again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
from safediff.gate.verdict import CheckResult, GateReport, Verdict, overall
from safediff.release.attacked import attacks_on, counter_evidence
from safediff.release.frameworks import FRAMEWORKS
from safediff.release.guarded import guarded

Json = dict[str, Any]

CERTIFICATE_NAME = "safety-certificate.json"
SCHEMA_VERSION = 3
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
    """With time zone; when the oldest of the pictures was drawn, not when the file was written:
    taking a run up again makes no evidence younger."""
    policy: Json
    """``name``, ``path``, ``sha256`` (of the file), ``version``, ``resolved`` (the plan),
    ``waivers``."""
    seeds: Json
    """``seed`` and ``images_per_prompt``; with its prompt and number they give a picture's own."""
    base_model: Json
    """``id``, ``revision``, ``sha256`` (hashes by file or part), ``license``."""
    modification: Json
    """``method``, ``paper``, ``parameters_changed``, ``steps``, ``seed``, ..."""
    reports: Sequence[GateReport | Mapping[str, Any]]
    """Gate reports, or their JSON. That on an engine names it in ``model_sha256["engine"]``."""
    judges: Sequence[Json] = ()
    prompt_sets: Sequence[Json] = ()
    """By hash: ``id``, ``sha256``, ``n``, ``license``, ``held_out``; never the prompts."""
    deployment_parity: Sequence[Json] = ()
    """``Parity.to_json`` of each engine, with ``artifact`` and ``reference``."""
    known_attacks: Sequence[Json] = ()
    """Successes against this model that were found elsewhere."""
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
    certificate: Json = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "issued_at": evidence.issued_at.isoformat(timespec="seconds"),
        "subject": list(subject),
        "base_model": evidence.base_model,
        "policy": evidence.policy,
        "seeds": evidence.seeds,
        "modification": evidence.modification,
        "judges": list(evidence.judges),
        "prompt_sets": list(evidence.prompt_sets),
        "deployment_parity": list(evidence.deployment_parity),
        "engines": [],
        "extends": None,
        "limitations": list(evidence.limitations),
        "environment": dict(evidence.environment),
        "journal": evidence.journal,
        "frameworks": [dict(row) for row in FRAMEWORKS],
        "self_assessed": True,
    }
    return {**certificate, **derived(certificate, reports, evidence.known_attacks)}


def derived(certificate: Json, reports: Sequence[GateReport], known: Sequence[Json]) -> Json:
    """Everything in a certificate that follows from its reports and its other parts.

    Args:
        certificate: with everything that does not follow.
        reports: in their order.
        known: attacks that succeeded elsewhere.
    """
    parity = certificate["deployment_parity"]
    verdict = _verdict(reports, parity, certificate["subject"])
    successes = [*counter_evidence(reports), *known]
    return {
        "verdict": verdict.value,
        "statement": _statement(verdict, reports, certificate),
        "counts": _counts(reports),
        "expires_at": _expiry(certificate["issued_at"], reports).isoformat(timespec="seconds"),
        "reports": [_summary(report) for report in reports],
        "checks": [row for report in reports for row in _rows(report, certificate["seeds"])],
        "attacks": attacks_on(reports),
        "deployment_parity": [{**row, "gate_rerun": _gated_engine(reports)} for row in parity],
        "counter_evidence": successes,
        "counter_evidence_note": "" if successes else _without_success(reports),
    }


def reports_in(certificate: Json) -> list[GateReport]:
    """The reports that a certificate was issued on.

    Raises:
        UsageError: the rows do not make such reports.
    """
    policy = certificate["policy"]
    return [
        GateReport.from_json(
            {
                **summary,
                "results": [
                    {k: v for k, v in row.items() if k not in ("subject", "decides", "seeds")}
                    for row in certificate["checks"]
                    if row["subject"] == summary["subject"]
                ],
                "policy_name": policy["name"],
                "policy_sha256": policy["sha256"],
                "environment": certificate["environment"],
            }
        )
        for summary in certificate["reports"]
    ]


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
    unproven = engines and not (_gated_engine(reports) and engines <= compared)
    if verdict is Verdict.INCONCLUSIVE or unproven:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS


def _gated_engine(reports: Sequence[GateReport]) -> bool:
    return any(report.decides and "engine" in report.model_sha256 for report in reports)


def _without_success(reports: Sequence[GateReport]) -> str:
    attacked = any(result.kind == "robustness" for result in _deciding(reports))
    return NO_SUCCESS if attacked else NO_COUNTER_EVIDENCE


def _counts(reports: Sequence[GateReport]) -> dict[str, int]:
    verdicts = [result.verdict for result in _deciding(reports) if result.gating]
    return {verdict.value: verdicts.count(verdict) for verdict in Verdict}


def _rows(report: GateReport, seeds: Json) -> list[Json]:
    rows: list[Json] = report.to_json()["results"]
    about = {"subject": report.subject, "decides": report.decides, "seeds": seeds}
    return [{**about, **row} for row in rows]


def _summary(report: GateReport) -> Json:
    """A report without its results and without what the certificate says already."""
    data = report.to_json()
    told = ("results", "policy_name", "policy_sha256", "environment")
    return {name: value for name, value in data.items() if name not in told}


def _expiry(issued_at: str, reports: Sequence[GateReport]) -> datetime:
    """The end of ``VALIDITY``, or of the first waiver that something rests on."""
    ends = [
        datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(), UTC)
        for result in _deciding(reports)
        if result.verdict is Verdict.WAIVED and (day := result.details.get("waiver_expires"))
    ]
    return min([datetime.fromisoformat(issued_at) + VALIDITY, *ends])


def _statement(verdict: Verdict, reports: Sequence[GateReport], certificate: Json) -> str:
    policy, day = certificate["policy"], certificate["issued_at"][:10]
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
    num_waived = _counts(reports)[Verdict.WAIVED.value]
    waived = f", {num_waived} of them waived" if num_waived else ""
    guard = guarded(policy["resolved"])
    behind = f", behind {guard.told}" if guard else ""
    return (
        f"{met} {name} at thresholds {', '.join(claims)}{waived}{behind}, under tests on "
        f"{num_images} pictures on {day}."
    )
