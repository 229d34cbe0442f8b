"""SARIF 2.1.0 (OASIS, errata 01) for code scanning: findings at the policy's lines.

GitHub shows every result as an open alert, whatever its ``kind``, and closes the alerts of results
that are missing. Hence a check that passed is no result; one that could not be decided is none
either, but a notification of an execution that was not successful, and such a file must not be
uploaded; a waived one is a suppressed result.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from safediff import __version__
from safediff.gate.explanations import explanation_of
from safediff.gate.verdict import CheckResult, GateReport, Verdict, combined
from safediff.report.rules import deciding, rule_id, sentence
from safediff.report.wording import findings, limit_text

Json = dict[str, Any]

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
LEVELS = {Verdict.FAIL: "error", Verdict.WARN: "warning", Verdict.WAIVED: "warning"}


def render_sarif(reports: Sequence[GateReport], policy: str) -> str:
    """One SARIF run over all reports that decide. The same reports give the same text.

    Args:
        reports: of one policy.
        policy: its path from the root of the repository.
    """
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(reports, policy)]}
    return json.dumps(log, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _run(reports: Sequence[GateReport], policy: str) -> Json:
    speaking = deciding(reports)
    rules = list({rule_id(r): _rule(r) for report in speaking for r in report.results}.values())
    where = {rule["id"]: index for index, rule in enumerate(rules)}
    found = findings(speaking)
    undecided = [pair for pair in found if pair[1].verdict is Verdict.INCONCLUSIVE]
    return {
        "tool": {"driver": {"name": "safediff", "version": __version__, "rules": rules}},
        "automationDetails": {"id": f"safediff/{reports[0].policy_name}/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": combined(reports) is not Verdict.INCONCLUSIVE
                and not undecided,
                "startTimeUtc": _utc(min(report.started for report in speaking)),
                "endTimeUtc": _utc(max(report.finished for report in speaking)),
                "toolExecutionNotifications": [
                    _notification(report, result, reports, policy) for report, result in undecided
                ],
            }
        ],
        "results": [
            _result(report, result, reports, policy, where[rule_id(result)])
            for report, result in found
            if result.verdict is not Verdict.INCONCLUSIVE
        ],
        "properties": {
            "verdict": combined(reports).value,
            "policySha256": reports[0].policy_sha256,
            "planSha256": reports[0].plan_sha256,
        },
    }


def _rule(result: CheckResult) -> Json:
    key, explained = explanation_of(result.id)
    fooled = "\n".join(["How it can be fooled:", *(f"- {text}" for text in explained.fooled_by)])
    told = (explained.measures, explained.why, fooled, f"safediff explain {key}")
    return {
        "id": rule_id(result),
        "shortDescription": {"text": explained.asks},
        "fullDescription": {"text": explained.measures},
        "help": {"text": "\n\n".join(told)},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["safediff", result.kind]},
    }


def _result(
    report: GateReport, result: CheckResult, reports: Sequence[GateReport], policy: str, index: int
) -> Json:
    found: Json = {
        "ruleId": rule_id(result),
        "ruleIndex": index,
        "level": LEVELS[result.verdict],
        "message": {"text": sentence(report, result, reports)},
        "locations": [_location(result, policy)],
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(report, result)},
        "properties": _numbers(report, result),
    }
    if result.verdict is Verdict.WAIVED:
        found["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": result.message}
        ]
    return found


def _notification(
    report: GateReport, result: CheckResult, reports: Sequence[GateReport], policy: str
) -> Json:
    return {
        "level": "error",
        "message": {"text": sentence(report, result, reports)},
        "associatedRule": {"id": rule_id(result)},
        "locations": [_location(result, policy)],
        "properties": _numbers(report, result),
    }


def _location(result: CheckResult, policy: str) -> Json:
    place: Json = {"artifactLocation": {"uri": quote(policy), "uriBaseId": "%SRCROOT%"}}
    if result.policy_line is not None:
        place["region"] = {"startLine": result.policy_line}
    return {"physicalLocation": place}


def _fingerprint(report: GateReport, result: CheckResult) -> str:
    """Of what the alert is about, not of its line or its numbers: both change, the alert stays.

    Named and written as GitHub's hash of the line, which it matches alerts by.
    """
    about = "\n".join((report.policy_name, report.subject, rule_id(result)))
    return f"{hashlib.sha256(about.encode()).hexdigest()[:16]}:1"


def _numbers(report: GateReport, result: CheckResult) -> Json:
    return {
        "verdict": result.verdict.value,
        "subject": report.subject,
        "metric": result.metric,
        "estimate": result.estimate,
        "lower": result.lower,
        "upper": result.upper,
        "confidence": result.confidence,
        "interval": result.interval,
        "n": result.num_samples,
        "threshold": f"{result.threshold.bound} {limit_text(result.threshold)}",
        "base": result.base_value,
    }


def _utc(time: str) -> str:
    """ISO 8601 with any offset, as SARIF writes it."""
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
