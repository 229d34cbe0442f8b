"""The gate's results in a terminal, readable in 80 columns and without colour.

The strip that draws an interval is left out where there are fewer than 100.
"""

from collections.abc import Sequence
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Verdict, combined
from safediff.report.scales import Scale, check_domain
from safediff.report.wording import (
    KIND_QUESTIONS,
    beside_limit,
    by_verdict,
    claim,
    counts_text,
    findings,
    limit_text,
    number_text,
    result_text,
    says_nothing_alone,
    short_hash,
    title_of,
    verdict_text,
)

STYLES = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "magenta",
    Verdict.WAIVED: "cyan",
}

STRIP_WIDTH = 16

COLUMNS: tuple[tuple[str, int, Literal["left", "right"]], ...] = (
    ("Check", 24, "left"),
    ("Interval ╎ limit", STRIP_WIDTH, "left"),
    ("Value", 8, "right"),
    ("Bound", 8, "right"),
    ("Limit", 8, "right"),
    ("n", 6, "right"),
    ("Base", 8, "right"),
    ("", 14, "left"),
)
"""Heading, width and alignment; with one space between them, 99 characters."""

STRIP, WIDE = 1, 99
"""Column of the strip, and the width from which on it is shown."""

NARROW_NAME = 21
"""Width of the first column without the strip: 80 characters in all."""


def render_table(reports: Sequence[GateReport]) -> RenderableType:
    """Render reports: a table and the findings of every subject, then the verdict.

    Raises:
        ValueError: no reports.
    """
    if not reports:
        raise ValueError("no gate report to show")
    blocks: list[RenderableType] = []
    for report in reports:
        blocks += [_headline(report), *_tables(report), *_messages(report)]
    return Group(*blocks, _closing(reports))


def strip(result: CheckResult, domain: tuple[float, float], width: int = STRIP_WIDTH) -> str:
    """Draw an interval in text: ``━●━━┫ ╎`` with the deciding bound and the limit."""
    if result.estimate is None:
        return "·" * width
    scale = Scale(*domain, 0, width - 1)
    cells = [" "] * width
    low, high = (
        round(scale(edge if value is None else value))
        for value, edge in ((result.lower, domain[0]), (result.upper, domain[1]))
    )
    cells[low : high + 1] = "─" * (high - low + 1)
    threshold = result.threshold
    limits = (-threshold.value, threshold.value) if threshold.op == "abs<=" else (threshold.value,)
    for limit in limits:
        cells[round(scale(limit))] = "╎"
    if threshold.bound in ("lower", "both"):
        cells[low] = "┣"
    if threshold.bound in ("upper", "both"):
        cells[high] = "┫"
    cells[round(scale(result.estimate))] = "●"
    return "".join(cells)


def _headline(report: GateReport) -> RenderableType:
    title = Text.assemble(
        (report.subject, "bold"), "  ", (verdict_text(report.verdict), STYLES[report.verdict])
    )
    if not report.decides:
        title.append("  for comparison, does not decide", "dim")
    return Rule(title, align="left", style="dim")


def _tables(report: GateReport) -> list[RenderableType]:
    """One table per kind of check, all with the same columns."""
    blocks: list[RenderableType] = []
    for kind, question in KIND_QUESTIONS.items():
        rows = [result for result in report.results if result.kind == kind]
        if not rows:
            continue
        blocks += [Text(question, "bold"), ChecksTable(rows, show_header=not blocks), Text()]
    return blocks


class ChecksTable:
    """One row per check, as wide as the terminal lets it be."""

    def __init__(self, results: Sequence[CheckResult], *, show_header: bool) -> None:
        self.results, self.show_header = results, show_header

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        shown = [i for i in range(len(COLUMNS)) if wide or i != STRIP]
        padding = (0, 1, 0, 0)
        table = Table(box=None, show_header=self.show_header, header_style="dim", padding=padding)
        for name, width, justify in (COLUMNS[i] for i in shown):
            narrow_name = name == "Check" and not wide  # it may wrap, numbers may not
            table.add_column(
                name,
                width=NARROW_NAME if narrow_name else width,
                justify=justify,
                no_wrap=not narrow_name,
                overflow="ellipsis",
            )
        for result in self.results:
            cells = _cells(result)
            table.add_row(*(cells[i] for i in shown))
        yield table


def _cells(result: CheckResult) -> tuple[RenderableType, ...]:
    style = STYLES[result.verdict]
    quiet = "" if result.gating else "dim"
    alone = "dim" if says_nothing_alone(result) else style
    return (
        Padding(Text(title_of(result), quiet), (0, 0, 0, 2 if result.gating else 4)),
        Text(strip(result, check_domain([result])), alone),
        Text(number_text(result, "estimate"), quiet),
        Text(beside_limit(result, deciding_bound(result)), quiet),
        Text(limit_text(result.threshold), quiet),
        Text(f"{result.num_samples:,}", quiet),
        Text(show(result.base_value), "dim"),
        Text(result_text(result), alone),
    )


def deciding_bound(result: CheckResult) -> float | None:
    """The bound that is held against the limit; of two, the one farther from 0."""
    ends = {"lower": [result.lower], "upper": [result.upper], "value": []}
    found = [
        v for v in ends.get(result.threshold.bound, [result.lower, result.upper]) if v is not None
    ]
    return max(found, key=abs, default=None)


def _messages(report: GateReport) -> list[RenderableType]:
    found: list[RenderableType] = []
    for _, result in findings([report]):
        style = STYLES[result.verdict]
        head = Text.assemble((verdict_text(result.verdict), style), " ", (result.id, "bold"))
        found += [Padding(head, (0, 0, 0, 2)), Padding(Text(result.message), (0, 2, 1, 4))]
    return found


def _closing(reports: Sequence[GateReport]) -> RenderableType:
    verdict = combined(reports)
    lines: list[RenderableType] = [Rule(style=STYLES[verdict]), _verdict_line(reports, verdict)]
    for group in by_verdict([report for report in reports if report.decides]):
        lines.append(Text(" ".join(claim(group)) + "."))
    for report in reports:
        pictures = f"{report.num_images:,} pictures"
        lines.append(Text(f"{report.subject}: {counts_text(report)}; {pictures}", "dim"))
    return Group(*lines)


def _verdict_line(reports: Sequence[GateReport], verdict: Verdict) -> Text:
    return Text.assemble(
        (verdict_text(verdict), f"{STYLES[verdict]} reverse"),
        "  policy ",
        (reports[0].policy_name, "bold"),
        (f"  {short_hash(reports[0].policy_sha256)}", "dim"),
    )
