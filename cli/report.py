"""``safediff report``: where a run stands, on the terminal."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of erase or verify.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown on stdout.")] = False,
) -> None:
    """Show the checks of a finished run again; the HTML report lies in its folder."""
    from rich.console import Console

    from safediff.errors import UsageError
    from safediff.gate.verdict import load_report
    from safediff.report.markdown import render_markdown
    from safediff.report.table import render_table

    files = sorted(
        run.glob("verdict.*.json"), key=lambda p: (not p.stem.endswith("teacher"), p.name)
    )
    if not files:
        raise UsageError(f"{run}: holds no verdict", "run safediff erase or safediff verify first")
    reports = [load_report(file) for file in files]
    if markdown:
        print(render_markdown(reports))
        return
    console = Console()
    console.print(render_table(reports))
    console.print(f"report   {run / 'report.html'}", highlight=False, soft_wrap=True)
