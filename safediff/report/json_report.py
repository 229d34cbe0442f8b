"""The verdict as one JSON document: sorted keys, no number that is not finite, a published schema.

Same reports, same bytes. ``safediff schema --verdict`` prints the schema.
"""

import json
from collections.abc import Sequence
from typing import Any

from safediff.errors import UsageError
from safediff.gate.verdict import GateReport, Verdict, combined
from safediff.report.rules import deciding

Json = dict[str, Any]

SCHEMA_VERSION = 1
KIND = "safediff-verdict"


def verdict_document(reports: Sequence[GateReport], policy: str) -> Json:
    """The verdict over all reports that decide, then every report.

    Args:
        reports: of one policy.
        policy: its path from the root of the repository.
    """
    first = reports[0]
    counts = [report.counts for report in deciding(reports)]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "verdict": combined(reports).value,
        "counts": {v.value: sum(count[v] for count in counts) for v in Verdict},
        "policy": {
            "name": first.policy_name,
            "path": policy,
            "sha256": first.policy_sha256,
            "plan_sha256": first.plan_sha256,
        },
        "reports": [report.to_json() for report in reports],
    }


def render_json(reports: Sequence[GateReport], policy: str) -> str:
    """``verdict_document`` as text.

    Raises:
        ValueError: a report holds a number that is not finite.
    """
    return dumps(verdict_document(reports, policy))


def dumps(data: Json) -> str:
    """JSON text with sorted keys.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(data, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def reports_of(document: Json) -> list[GateReport]:
    """The reports of a document.

    Raises:
        UsageError: another schema version, a report that does not match its schema, or a verdict
            that does not follow from the reports.
    """
    if document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"verdict document has schema_version {document.get('schema_version')!r}, "
            f"expected {SCHEMA_VERSION}",
            "run the verification again with this version of safediff",
        )
    rows = document.get("reports")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError("verdict document holds no list of reports", "run the verification again")
    reports = [GateReport.from_json(row) for row in rows]
    if combined(reports).value != document.get("verdict"):
        raise UsageError(
            f"verdict document says {document.get('verdict')!r}, its reports say "
            f"{combined(reports).value!r}",
            "do not trust this file; run the verification again",
        )
    return reports
