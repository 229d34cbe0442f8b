"""``safediff verify``: the gate, for people and for CI."""

from pathlib import Path
from typing import Annotated

import typer

from safediff.report.formats import Format, format_of
from safediff.report.rules import policy_uri


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="embedded, a run, a release, a diffusers folder or a hub id."
        ),
    ],
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    format: Annotated[Format, typer.Option(help="What stdout shows.")] = Format.RICH,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Also write FILE, as its extension says: .json .xml .sarif .md .html; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for journal, pictures and report; runs/<policy>/verify-N if not given.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="End with 0 instead of 1 (not instead of 2, 3).")
    ] = False,
    fail_on_warn: Annotated[
        bool, typer.Option("--fail-on-warn", help="End with 1 where a check warns.")
    ] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")
    ] = False,
) -> None:
    """Measure a model against a policy.

    Exit code: 0 the policy is met, 1 it is not, 2 wrong input, 3 it could not be decided.
    """
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.policy.load import load_plan

    files = {path: format_of(path) for path in output or ()}
    plan = load_plan(policy)
    quiet_libraries()
    from safediff.cli.outcome import end, publish
    from safediff.gate.verdict import combined
    from safediff.workflow.run_folder import free_folder
    from safediff.workflow.verify import verify as run_verify

    folder = out if out is not None else free_folder(Path("runs") / plan.name / "verify")
    with RichUi(quiet or no_progress) as ui:
        reports = run_verify(plan, model, revision, folder, ui)
    publish(reports, policy_uri(policy), folder=folder, format=format, files=files, quiet=quiet)
    end(
        reports,
        combined(reports),
        folder=folder,
        exit_zero=exit_zero,
        fail_on_warn=fail_on_warn,
    )
