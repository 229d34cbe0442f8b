"""``safediff erase``: the main job."""

from pathlib import Path
from typing import Annotated

import typer


def erase(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/<policy>/<id> if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the latest run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Erase a policy's concepts, verify, export an engine and verify it again.

    Exit code: 0 the policy is met, 1 it is not, 3 it could not be decided.
    """
    from safediff.cli.outcome import conclude
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.policy.load import load_plan

    plan = load_plan(policy)
    quiet_libraries()
    from safediff.sample.shards import only_one_process

    only_one_process("safediff erase")
    from safediff.workflow.erase import erase as run_erase
    from safediff.workflow.hub_prompts import with_hub_prompts
    from safediff.workflow.run_folder import open_run

    plan = with_hub_prompts(plan)
    run = open_run(plan, out, resume)
    with RichUi(quiet) as ui:
        for note in plan.notes:
            ui.say(f"note: {note}")
        outcome = run_erase(plan, run, ui)
    conclude(outcome.reports, outcome.verdict, folder=run.path, released=outcome.released)
