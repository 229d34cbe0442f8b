"""``safediff verify``: the gate, for people and for CI."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="embedded, a run, a release, a diffusers folder or a hub id."
        ),
    ],
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for journal and reports [runs/<policy>/verify-N].")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="End with 0 where the policy is not met.")
    ] = False,
) -> None:
    """Measure a model against a policy.

    Exit code: 0 the policy is met, 1 it is not, 3 it could not be decided.
    """
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.policy.load import load_plan

    plan = load_plan(policy)
    quiet_libraries()
    from safediff.cli.outcome import conclude
    from safediff.gate.verdict import combined
    from safediff.workflow.run_folder import free_folder
    from safediff.workflow.verify import verify as run_verify

    folder = out if out is not None else free_folder(Path("runs") / plan.name / "verify")
    with RichUi(quiet) as ui:
        reports = run_verify(plan, model, revision, folder, ui)
    conclude(reports, combined(reports), folder=folder, exit_zero=exit_zero)
