"""The gate's results as GitHub-flavoured Markdown, for job summaries and comments."""

import re
from collections.abc import Sequence

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, combined
from safediff.report.wording import (
    bounds_text,
    counts_text,
    findings,
    limit_text,
    number_text,
    result_text,
    statement,
    verdict_text,
)

HEADINGS = ("Check", "Verdict", "Measured", "Deciding bound", "Limit", "n", "Base", "Policy line")


def render_markdown(reports: Sequence[GateReport]) -> str:
    """Render reports: the verdict over those that decide, then one table per subject.

    Raises:
        ValueError: no reports.
    """
    if not reports:
        raise ValueError("no gate report to show")
    policy = escape(reports[0].policy_name)
    title = f"## {verdict_text(combined(reports))} · policy {policy}"
    return "\n\n".join([title, *map(_subject, reports)]) + "\n"


def escape(text: str) -> str:
    """Make any text harmless within a Markdown table cell or line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", flat)


def _subject(report: GateReport) -> str:
    role = "" if report.decides else " (for comparison, does not decide)"
    lines = [
        f"### {verdict_text(report.verdict)} · {escape(report.subject)}{role}",
        f"{escape(statement(report))} {counts_text(report)}; {report.num_images:,} pictures.",
        _table(report.results),
    ]
    found = [
        f"- **{verdict_text(result.verdict)}** {escape(result.id)}: {escape(result.message)}"
        for _, result in findings([report])
    ]
    if found:
        lines.append("\n".join(found))
    hashes = {"policy": report.policy_sha256, "plan": report.plan_sha256, **report.model_sha256}
    lines.append("\n".join(f"- {escape(name)} `{sha256}`" for name, sha256 in hashes.items()))
    return "\n\n".join(lines)


def _table(results: Sequence[CheckResult]) -> str:
    rows = [HEADINGS, ("---", "---", *("---:",) * 6), *map(_cells, results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(result: CheckResult) -> tuple[str, ...]:
    return (
        escape(result.id),
        result_text(result),
        number_text(result, "estimate"),
        bounds_text(result) or "—",
        limit_text(result.threshold),
        f"{result.num_samples:,}",
        show(result.base_value),
        str(result.policy_line or "—"),
    )
