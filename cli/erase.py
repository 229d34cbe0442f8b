"""``safediff erase``: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from safediff.workflow.many import Attempt


def erase(
    policies: Annotated[list[Path], typer.Argument(metavar="POLICY", help="Policy files.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder, of several policies the folder that holds theirs; "
            "runs/<policy>/<id> if not given."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the latest run.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard, wandb or another tracker of accelerate; repeatable."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Erase a policy's concepts, verify, export an engine and verify it again.

    Several policies run one after another, each in a run of its own; each base is loaded once.

    Under torchrun all processes share the work.

    Exit code: 0 the policy is met, 1 it is not, 3 it could not be decided; of several policies the
    worst, in the order 1, 3, 2.
    """
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.policy.load import load_plans

    plans = load_plans(policies)
    quiet_libraries()
    from safediff.sample.shards import sharded
    from safediff.workflow.hub_prompts import with_hub_prompts
    from safediff.workflow.many import erase_all
    from safediff.workflow.tracking import check_trackers

    check_trackers(track or [])
    plans = [with_hub_prompts(plan) for plan in plans]
    with sharded() as shards, RichUi(quiet or not shards.leads) as ui:
        for plan in plans:
            for note in plan.notes:
                ui.say(f"note: {note}" if len(plans) == 1 else f"note: {plan.name}: {note}")
        attempts = erase_all(plans, out, resume, ui, shards=shards, trackers=track or ())
    if shards.leads:  # process 0 speaks for all
        _conclude(attempts)


def _conclude(attempts: "list[Attempt]") -> None:
    """Tables to stdout, then the outcome.

    Raises:
        SafediffError: a policy is not met, undecided, or could not be run.
    """
    from safediff.cli.outcome import conclude, show_run
    from safediff.cli.plain_console import plain_console
    from safediff.report.several import Line, render_several
    from safediff.workflow.many import end_of

    done = [a.outcome for a in attempts if a.outcome]
    if len(attempts) == 1:
        (outcome,) = done
        conclude(
            outcome.reports, outcome.verdict, folder=outcome.run.path, released=outcome.released
        )
        return
    for outcome in done:
        show_run(outcome.reports, outcome.run.path, outcome.released)
    lines = []
    for a in attempts:
        where = f"{a.run.path}, {a.seconds:.0f} s"
        note = f"{a.error}" if a.error else where
        lines.append(Line(a.plan.name, a.verdict, a.outcome.reports if a.outcome else (), note))
    print()
    plain_console().print(render_several(lines))
    end_of(attempts)
