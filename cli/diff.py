"""``safediff diff``: what changed between two runs, and what of it is beyond noise."""

from pathlib import Path
from typing import Annotated

import typer


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="Run folder or verdict file.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Run folder or verdict file.")],
) -> None:
    """Compare two runs, check by check, with intervals.

    Always ends with 0, unless A or B cannot be read (2).
    """
    from safediff.cli.plain_console import plain_console
    from safediff.report.load import load_reports

    old, new = load_reports(before), load_reports(after)
    from safediff.gate.comparing import compare
    from safediff.report.comparison import render_comparison

    plain_console(highlight=False).print(render_comparison(compare(old, new)))
