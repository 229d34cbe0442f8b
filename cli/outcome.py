"""Prints what a gate found and ends with its exit code."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from safediff.errors import Inconclusive, PolicyViolated
from safediff.gate.verdict import GateReport, Verdict
from safediff.report.table import render_table


def conclude(
    reports: Sequence[GateReport],
    verdict: Verdict,
    *,
    folder: Path,
    released: bool | None = None,
    exit_zero: bool = False,
) -> None:
    """Print the table to stdout, say where things are, raise the outcome.

    Raises:
        PolicyViolated: a check failed (unless ``exit_zero``).
        Inconclusive: something could not be decided.
    """
    console = Console()
    console.print(render_table(reports))
    console.print(f"report   {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if released:
        console.print(f"release  {folder / 'release'}", highlight=False, soft_wrap=True)
    if verdict is Verdict.FAIL and not exit_zero:
        raise PolicyViolated(
            f"policy {reports[0].policy_name} is not met; nothing was released"
            if released is not None
            else f"policy {reports[0].policy_name} is not met",
            f"open {folder / 'report.html'}",
        )
    if verdict is Verdict.INCONCLUSIVE:
        raise Inconclusive(
            f"whether policy {reports[0].policy_name} is met could not be decided",
            f"open {folder / 'report.html'}",
        )
