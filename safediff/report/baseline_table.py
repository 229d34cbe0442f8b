"""What changed against a baseline, for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from safediff.gate.baseline import Comparison
from safediff.gate.comparing import LEVEL
from safediff.gate.numbers import show

METHOD = (
    f"One-sided for worse, adjusted over all tested checks (Holm); below {LEVEL:g} is a "
    "regression. paired: exact sign test over prompts that changed; two proportions: Fisher's "
    "exact test; intervals: MOVER."
)


def render_baseline(rows: Sequence[Comparison]) -> RenderableType:
    """A table, and how it was decided."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("Subject", "Check"):
        table.add_column(name, overflow="fold")
    for name in ("Baseline", "Now"):
        table.add_column(name, justify="right")
    table.add_column("Test", overflow="fold")
    table.add_column("p", justify="right")
    for row in rows:
        style = "bold red" if row.regressed else ""
        cells = (row.subject, row.id, show(row.before), show(row.after), _test(row), _p(row))
        table.add_row(*(Text(cell, style) for cell in cells))
    return Group(Text("Against the baseline", "bold"), table, Text(METHOD, "dim"))


def _test(row: Comparison) -> str:
    if row.how == "paired":
        return f"paired, {row.worse} worse, {row.better} better"
    return row.how


def _p(row: Comparison) -> str:
    text = "" if row.p_value is None else f"{row.p_value:.2g}"
    return f"{text} worse" if row.regressed else text
