"""``safediff verify --baseline``: reads it, shows what changed, writes it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safediff.cli.plain_console import plain_console
from safediff.errors import UsageError
from safediff.gate.baseline import BASELINE_ID, Baseline, compare_with
from safediff.gate.verdict import GateReport, Verdict, combined
from safediff.policy.plan import Plan
from safediff.report.baseline_table import render_baseline
from safediff.workflow.baseline import (
    OutdatedBaseline,
    dump_baseline,
    load_baseline,
    measured_baseline,
)
from safediff.workflow.run_folder import write_text


def known_baseline(path: Path | None, updating: bool, quiet: bool = False) -> Baseline | None:
    """The baseline, read before anything is measured; None where there is none yet to update.

    One that this version can't read counts as none where it is to be replaced anyway.

    Raises:
        UsageError: it is no baseline, is of another version and not to be replaced, is missing and
            not to be made, or has no folder to lie in.
    """
    if path is not None and updating and not path.parent.is_dir():
        raise UsageError(
            f"--baseline {path}: there is no folder {path.parent}",
            "name a file in a folder that exists",
        )
    if path is None or (updating and not path.exists()):
        return None
    try:
        return load_baseline(path)
    except OutdatedBaseline as error:
        if not updating:
            raise
        if not quiet:
            print(f"note: {error}; it counts as none yet", file=sys.stderr)
        return None


def update(
    path: Path,
    known: Baseline | None,
    plan: Plan,
    reports: Sequence[GateReport],
    folder: Path,
    *,
    write: bool,
    quiet: bool,
) -> None:
    """Show on stderr what changed; with ``write``, make it the baseline unless it is undecided.

    Raises:
        Inconclusive: the file cannot be written.
    """
    plain = [
        replace(r, results=tuple(row for row in r.results if row.id != BASELINE_ID))
        for r in reports
    ]
    now = measured_baseline(plan, plain, folder)
    if known is not None and not quiet:
        plain_console(stderr=True, highlight=False).print(render_baseline(compare_with(known, now)))
    if write and combined(reports) is not Verdict.INCONCLUSIVE:
        write_text(path, dump_baseline(now))
        if not quiet:
            print(f"wrote {path}", file=sys.stderr)
