"""What combining patches did to one policy's checks: on its own patch, and on the combination."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, Verdict
from safediff.report.table import STYLES, deciding_bound
from safediff.report.wording import beside_limit, limit_text, number_text, result_text, verdict_text


def render_interference(
    policy: str, verdict: Verdict, pairs: Sequence[tuple[CheckResult | None, CheckResult]]
) -> RenderableType:
    """One line per gating check: alone, combined, with the bound that decides and n."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("Check")
    for heading in ("Alone", "Bound", "Combined", "Bound", "Limit", "n"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for alone, now in pairs:
        table.add_row(
            Text(now.id),
            number_text(alone, "estimate") if alone else show(None),
            beside_limit(alone, deciding_bound(alone)) if alone else show(None),
            number_text(now, "estimate"),
            beside_limit(now, deciding_bound(now)),
            limit_text(now.threshold),
            f"{now.num_samples:,}",
            Text(result_text(now), STYLES[now.verdict]),
        )
    head = Text.assemble((policy, "bold"), "  ", (verdict_text(verdict), STYLES[verdict]))
    return Group(head, table)
