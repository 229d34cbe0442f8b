"""Explanations of checks in a terminal."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safediff.gate.explanations import Explanation


def render_explanation(key: str, explained: Explanation) -> RenderableType:
    """One check: its question, then a section for everything that is said about it."""
    blocks: list[RenderableType] = [Text.assemble((key, "bold"), "  ", explained.asks)]
    for title, texts in (
        ("What it measures", (explained.measures,)),
        ("Why", (explained.why,)),
        ("How it can be fooled", explained.fooled_by),
        ("References", explained.references),
    ):
        if texts:
            blocks += [Text(f"\n{title}", "bold"), *(_item(text, len(texts)) for text in texts)]
    return Group(*blocks)


def render_list(explanations: Mapping[str, Explanation]) -> RenderableType:
    """Every check with its question."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for key, explained in explanations.items():
        table.add_row(Text(key, "bold"), explained.asks)
    return table


def _item(text: str, num_texts: int) -> RenderableType:
    if num_texts == 1:
        return Padding(Text(text), (0, 0, 0, 2))
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row(Text("  -"), Text(text))
    return row
