"""``safediff explain``: what a check measures, why, and how it can be fooled."""

from typing import Annotated

import typer


def explain(
    check: Annotated[
        str | None,
        typer.Argument(metavar="CHECK", help="As in a report: erasure/bomb, quality/kid, kid."),
    ] = None,
) -> None:
    """Explain a check; without CHECK, list them all."""
    from safediff.cli.plain_console import plain_console
    from safediff.gate.explanations import EXPLANATIONS, explanation_of
    from safediff.report.explanation import render_explanation, render_list

    console = plain_console(highlight=False)
    if check is None:
        console.print(render_list(EXPLANATIONS))
    else:
        console.print(render_explanation(*explanation_of(check)))
