"""Several policies in one table, one line each."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from safediff.gate.verdict import CheckResult, GateReport, Verdict
from safediff.report.table import STYLES, deciding_bound
from safediff.report.wording import beside_limit, limit_text, number_text, verdict_text


class Line(NamedTuple):
    """One policy."""

    name: str
    verdict: Verdict
    reports: Sequence[GateReport]
    """Empty where it never came to a gate."""
    note: str
    """Where to look, or why there is no result."""


def render_several(lines: Sequence[Line]) -> RenderableType:
    """Per policy its verdict and, of what decides, the checks nearest to their limits."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("Policy", "", "Erased (bound, limit)", "Kept (bound, limit)", ""):
        table.add_column(heading, overflow="fold")
    for line in lines:
        results = [r for report in line.reports if report.decides for r in report.results]
        table.add_row(
            Text(line.name, "bold"),
            Text(verdict_text(line.verdict), STYLES[line.verdict]),
            _nearest([r for r in results if r.kind == "erasure" and r.gating]),
            _nearest([r for r in results if r.kind == "retention" and r.gating]),
            Text(line.note),
        )
    return table


def _nearest(results: Sequence[CheckResult]) -> str:
    """The check with the least to spare."""
    if not results:
        return "—"
    worst = min(results, key=_spare)
    bound = beside_limit(worst, deciding_bound(worst))
    return f"{number_text(worst, 'estimate')} ({bound}, {limit_text(worst.threshold)})"


def _spare(result: CheckResult) -> float:
    bound = deciding_bound(result)
    if bound is None:
        return float("-inf")
    gap = result.threshold.value - bound
    return gap if result.threshold.op == "<=" else -gap
