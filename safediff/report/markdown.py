"""The gate's reports as Markdown, without pictures."""

import re
from collections.abc import Sequence

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, combined
from safediff.report.words import (
    SYMBOLS,
    deciding_bound,
    expectation,
    label,
    statement,
    symbol,
    worst_first,
)

SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def to_markdown(reports: Sequence[GateReport], limitations: Sequence[str] = ()) -> str:
    """Statement, one table per subject, whatever is not PASS in words, limitations, hashes."""
    verdict = combined(reports)
    lines = [
        f"# {SYMBOLS[verdict]} {verdict.name}",
        "",
        escape(statement(reports)),
        "",
    ]
    for report in reports:
        lines += _subject(report)
    if limitations:
        lines += ["## Limitations", "", *(f"- {escape(text)}" for text in limitations), ""]
    first = reports[0]
    lines += [
        "## Hashes",
        "",
        f"- policy: `{first.policy_sha256}`",
        f"- plan: `{first.plan_sha256}`",
    ]
    for report in reports:
        lines += [
            f"- {escape(report.subject)}, {escape(part)}: `{digest}`"
            for part, digest in sorted(report.model_sha256.items())
        ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Make text show as itself, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _subject(report: GateReport) -> list[str]:
    role = "" if report.decides else " (for comparison)"
    lines = [
        f"## {SYMBOLS[report.verdict]} {escape(report.subject)}{role}: {report.verdict.name}",
        "",
        "| verdict | check | estimate | bound | expected | n | base | policy line |",
        "|---|---|---:|---:|---|---:|---:|---:|",
        *(_row(result) for result in report.results),
        "",
    ]
    notes = worst_first(report.results)
    lines += [
        f"- {SYMBOLS[result.verdict]} **{escape(result.id)}**: {escape(result.message)}"
        for result in notes
    ]
    return [*lines, ""] if notes else lines


def _row(result: CheckResult) -> str:
    cells = (
        f"{symbol(result)} {label(result)}",
        escape(result.id),
        show(result.estimate),
        show(deciding_bound(result)),
        expectation(result.threshold) if result.gating else "",
        str(result.num_samples),
        show(result.base_value),
        str(result.policy_line or ""),
    )
    return f"| {' | '.join(cells)} |"
