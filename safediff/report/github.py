"""What GitHub Actions shows: annotations at the policy's lines, and the job summary.

Both have limits (``ANNOTATIONS``, ``SUMMARY_BYTES``) beyond which GitHub drops things silently, so
the worst comes first and what was cut is said.
"""

from collections.abc import Sequence
from itertools import accumulate, takewhile
from pathlib import Path

from safediff.gate.verdict import CheckResult, GateReport, Verdict, combined
from safediff.report.rules import deciding, rule_id, sentence
from safediff.report.wording import counts_text, findings, verdict_text

ANNOTATIONS = 10
"""GitHub shows so many of one step."""

SUMMARY_BYTES = 900 * 1024
"""Beyond 1 MiB GitHub drops the whole summary of a step; it was seen to do so a little earlier."""

COMMANDS = {
    Verdict.FAIL: "error",
    Verdict.INCONCLUSIVE: "error",
    Verdict.WARN: "warning",
    Verdict.WAIVED: "notice",
}


def render_annotations(reports: Sequence[GateReport], policy: str) -> str:
    """Workflow commands for the findings, worst first, then one line of summary.

    Args:
        reports: of one policy.
        policy: its path from the root of the repository.
    """
    found = findings(deciding(reports))
    lines = [
        _annotation(result, sentence(report, result, reports), policy)
        for report, result in found[:ANNOTATIONS]
    ]
    return "\n".join([*lines, _summary_line(reports, len(found) - len(lines))]) + "\n"


def escape_data(text: str) -> str:
    """Escape the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Escape a property of a workflow command."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def append_summary(path: Path, text: str, limit: int = SUMMARY_BYTES) -> None:
    """Append Markdown to a step's summary file; what does not fit is cut, and that is said.

    Args:
        path: ``GITHUB_STEP_SUMMARY``; earlier commands of the step may have written to it.
        text: Markdown.
        limit: bytes that the whole file may have.
    """
    used = path.stat().st_size if path.exists() else 0
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(_fitted(text, limit - used))


def _annotation(result: CheckResult, message: str, policy: str) -> str:
    properties = {"file": policy, "line": result.policy_line, "title": rule_id(result)}
    shown = ",".join(
        f"{name}={escape_property(str(value))}"
        for name, value in properties.items()
        if value is not None
    )
    return f"::{COMMANDS[result.verdict]} {shown}::{escape_data(message)}"


def _summary_line(reports: Sequence[GateReport], num_cut: int) -> str:
    counts = "; ".join(f"{report.subject}: {counts_text(report)}" for report in deciding(reports))
    line = f"{verdict_text(combined(reports))} policy {reports[0].policy_name}; {counts}"
    more = "1 more finding is" if num_cut == 1 else f"{num_cut} more findings are"
    return f"{line}; {more} in the report" if num_cut else line


def _fitted(text: str, room: int) -> str:
    """Whole lines of ``text`` that fit, and a word on the others; nothing if not even that fits."""
    if len(text.encode()) <= room:
        return text
    lines = text.splitlines(keepends=True)
    room -= len(_notice(len(lines), len(lines)).encode())
    if room < 0:
        return ""
    ends = accumulate(len(line.encode()) for line in lines)
    kept = sum(1 for _ in takewhile(lambda end: end <= room, ends))
    return "".join(lines[:kept]) + _notice(len(lines) - kept, len(lines))


def _notice(num_cut: int, num_lines: int) -> str:
    return (
        f"\n**Cut here**: {num_cut} of {num_lines} lines did not fit into the job summary; "
        "report.md holds all of them.\n"
    )
