"""Shows what a gate found and ends with its exit code: all of it from the same reports."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safediff.cli.plain_console import plain_console
from safediff.errors import Inconclusive, PolicyViolated, UsageError
from safediff.gate.verdict import GateReport, Verdict
from safediff.report.formats import HTML, RENDERERS, Format
from safediff.report.github import append_summary
from safediff.report.markdown import render_markdown
from safediff.report.table import render_table
from safediff.workflow.run_folder import write_text, writing


def conclude(
    reports: Sequence[GateReport],
    verdict: Verdict,
    *,
    folder: Path,
    released: bool | None = None,
) -> None:
    """Print the table to stdout, say where things are, raise the outcome.

    Raises:
        PolicyViolated: a check failed.
        Inconclusive: something could not be decided.
    """
    show_run(reports, folder, released)
    end(reports, verdict, next_step=f"open {folder / 'report.html'}", released=released)


def show_run(reports: Sequence[GateReport], folder: Path, released: bool | None) -> None:
    """The table of a run, then where its report and its release lie."""
    show_table(reports, folder)
    if released:
        print(f"release  {folder / 'release'}")


def show_table(reports: Sequence[GateReport], folder: Path) -> None:
    """The table, then where the report lies, if there is one."""
    plain_console().print(render_table(reports))
    if (folder / "report.html").exists():
        print(f"report   {folder / 'report.html'}")


def publish(
    reports: Sequence[GateReport],
    policy: str,
    *,
    folder: Path,
    format: Format,
    files: dict[Path, str],
    quiet: bool,
) -> None:
    """Result to stdout, files, job summary; what was written is said on stderr.

    Args:
        reports: of one verification.
        policy: path of the policy from the root of the repository.
        folder: of the verification, with its report.html.
        format: of stdout.
        files: format by path.
        quiet: say nothing.

    Raises:
        Inconclusive: a file cannot be written.
    """
    if format is Format.RICH:
        show_table(reports, folder)
    else:
        sys.stdout.write(RENDERERS[format](reports, policy))
    for path, name in files.items():
        write_text(
            path,
            (folder / "report.html").read_text(encoding="utf-8")
            if name == HTML
            else RENDERERS[name](reports, policy),
        )
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with writing(Path(summary)):
            append_summary(Path(summary), f"{render_markdown(reports)}\n{_artifact(folder)}\n")
    if not quiet:
        told = [*files] if format is Format.RICH else [folder / "report.html", *files]
        for path in told:
            print(f"wrote {path}", file=sys.stderr)


def _artifact(folder: Path) -> str:
    """Where the HTML report is found from a job summary, which holds no pictures."""
    run = [os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    artifacts = "{}/{}/actions/runs/{}#artifacts".format(*run)
    where = f"[artifacts of this run]({artifacts})" if all(run) else "artifacts of this run"
    return f"Pictures and intervals: `{folder / 'report.html'}`, if uploaded among the {where}."


@contextmanager
def violation_first(told: Callable[[], None]) -> Iterator[None]:
    """A policy that is not met stays the outcome where files of it can't be written: that is said.

    Args:
        told: raises the outcome, if it is not 0.

    Raises:
        PolicyViolated: the outcome.
        Inconclusive, UsageError: what can't be written, where the policy was met or could not be
            decided.
    """
    try:
        yield
    except (Inconclusive, UsageError) as error:
        try:
            told()
        except PolicyViolated:
            print(f"error: {error}\n  next: {error.next_step}", file=sys.stderr)
            raise
        except Inconclusive:
            pass
        raise


def end(
    reports: Sequence[GateReport],
    verdict: Verdict,
    *,
    next_step: str,
    released: bool | None = None,
    exit_zero: bool = False,
    fail_on_warn: bool = False,
) -> None:
    """Raise the outcome of a verdict, if it is not 0.

    Args:
        reports: what the verdict is over.
        verdict: over all that decide.
        next_step: where to read more.
        released: whether there is a release; None where none was to be made.
        exit_zero: hide exit code 1, and only that.
        fail_on_warn: a warning is a violation. A waiver is none: somebody answers for it.

    Raises:
        PolicyViolated: a check failed.
        Inconclusive: something could not be decided.
    """
    name = reports[0].policy_name
    if verdict is Verdict.INCONCLUSIVE:
        raise Inconclusive(f"whether policy {name} is met could not be decided", next_step)
    if exit_zero:
        return
    if verdict is Verdict.FAIL:
        so = "; nothing was released" if released is not None else ""
        raise PolicyViolated(f"policy {name} is not met{so}", next_step)
    if fail_on_warn and _warned(reports):
        raise PolicyViolated(f"policy {name} is met with warnings (--fail-on-warn)", next_step)


def _warned(reports: Sequence[GateReport]) -> bool:
    return any(
        result.verdict is Verdict.WARN
        for report in reports
        if report.decides
        for result in report.results
    )
