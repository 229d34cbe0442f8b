"""The gate's results in a terminal, readable in 100 columns and without colour."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, Verdict, combined
from safediff.report.scales import Scale, check_domain
from safediff.report.wording import (
    KIND_QUESTIONS,
    bounds_text,
    by_verdict,
    claim,
    counts_text,
    findings,
    limit_text,
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

STRIP_WIDTH = 18


def render_table(reports: Sequence[GateReport]) -> RenderableType:
    """Render reports: a table and the findings of every subject, then the verdict.

    Raises:
        ValueError: no reports.
    """
    if not reports:
        raise ValueError("no gate report to show")
    blocks: list[RenderableType] = []
    for report in reports:
        blocks += [_headline(report), _table(report, reports), *_messages(report), Text()]
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


def _table(report: GateReport, reports: Sequence[GateReport]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1), width=99)
    table.add_column("Check", width=23, no_wrap=True, overflow="ellipsis")
    table.add_column("Interval and limit ╎", width=STRIP_WIDTH + 2, no_wrap=True)
    table.add_column("Value", justify="right", no_wrap=True)
    table.add_column("Bound", justify="right", no_wrap=True, overflow="ellipsis")
    table.add_column("Limit", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("Base", justify="right", no_wrap=True)
    table.add_column("", width=14, no_wrap=True)
    for kind in KIND_QUESTIONS:
        rows = [result for result in report.results if result.kind == kind]
        if rows:
            table.add_row(Text(KIND_QUESTIONS[kind], "bold"))
        for result in rows:
            peers = [r for other in reports for r in other.results if r.id == result.id]
            table.add_row(*_cells(result, check_domain(peers)))
    return table


def _cells(result: CheckResult, domain: tuple[float, float]) -> tuple[Text, ...]:
    style = STYLES[result.verdict]
    name = f"  {title_of(result)}" if result.gating else f"    {title_of(result)}"
    quiet = "" if result.gating else "dim"
    verdict = Text(verdict_text(result.verdict), style)
    if not result.gating and result.verdict is Verdict.PASS:
        verdict = Text("· for info", "dim")
    return (
        Text(name, quiet),
        Text(strip(result, domain), style if result.gating else "dim"),
        Text(show(result.estimate), quiet),
        Text(_short_bounds(result), quiet),
        Text(limit_text(result.threshold), quiet),
        Text(str(result.num_samples), quiet),
        Text(show(result.base_value), "dim"),
        verdict,
    )


def _short_bounds(result: CheckResult) -> str:
    """The deciding bound without its name, which the sign of the limit implies."""
    text = bounds_text(result)
    return text.removeprefix("upper ").removeprefix("lower ").replace(" … ", "…") or "—"


def _messages(report: GateReport) -> list[RenderableType]:
    found: list[RenderableType] = []
    for _, result in findings([report]):
        style = STYLES[result.verdict]
        head = Text.assemble((verdict_text(result.verdict), style), " ", (result.id, "bold"))
        found += [Padding(head, (1, 0, 0, 2)), Padding(Text(result.message), (0, 2, 0, 4))]
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
