"""``safediff report``: where a run stands, on the terminal."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of erase or verify, or a verdict file.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown on stdout.")] = False,
) -> None:
    """Show the checks of a finished run again; the HTML report lies in its folder."""
    from safediff.cli.outcome import show_table
    from safediff.report.load import load_reports
    from safediff.report.markdown import render_markdown

    reports = load_reports(run)
    if markdown:
        print(render_markdown(reports))
    else:
        show_table(reports, run if run.is_dir() else run.parent)
