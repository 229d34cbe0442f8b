"""``safediff combine``: several policies' patches in one model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from safediff.workflow.combine import Combination


def combine(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Runs of safediff erase.")],
    then: Annotated[
        Path | None,
        typer.Option(metavar="POLICY", help="Erase this policy from the model of the runs."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; runs/combined/<policies>-<id> if not given.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Combine patches of one base and run every policy's gate on the result.

    Adds the patches up; with --then, erases a further policy on top of them. Only this combination
    is verified. What is done already is kept: run it again to go on.

    Under torchrun all processes share the work.

    Exit code: 0 all policies are met, 1 one is not, 3 one could not be decided.
    """
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.policy.load import load_plan

    plan = load_plan(then) if then else None
    quiet_libraries()
    import hashlib

    from safediff.sample.shards import sharded
    from safediff.workflow.combine import check_parts, open_part
    from safediff.workflow.combine import combine as run_combine
    from safediff.workflow.held_folders import held_folder
    from safediff.workflow.hub_prompts import with_hub_prompts

    plan = with_hub_prompts(plan) if plan else None
    parts = [open_part(path) for path in runs]
    check_parts(parts, plan)
    if out is None:
        names = [part.plan.name for part in parts] + ([plan.name] if plan else [])
        known = [part.to_json()["patch_sha256"] for part in parts] + ([plan.sha256] if plan else [])
        number = hashlib.sha256("".join(known).encode()).hexdigest()[:8]
        out = Path("runs") / "combined" / f"{'+'.join(names)}-{number}"
    with sharded() as shards, RichUi(quiet or not shards.leads) as ui, held_folder(out, shards):
        found = run_combine(parts, plan, out, ui, shards)
    if shards.leads:
        _conclude(found)


def _conclude(found: "Combination") -> None:
    """Tables to stdout, then the outcome.

    Raises:
        PolicyViolated: a policy is not met.
        Inconclusive: one could not be decided.
    """
    from safediff.cli.plain_console import plain_console
    from safediff.errors import Inconclusive, PolicyViolated
    from safediff.gate.verdict import Verdict
    from safediff.report.interference import render_interference

    for gate in found.gates:
        plain_console().print(render_interference(gate.part.plan.name, gate.verdict, gate.pairs()))
        print(f"report   {found.folder / 'gates' / gate.part.plan.name / 'report.html'}")
    if found.released:
        print(f"release  {found.folder / 'release'}")
    told = [
        f"{'met' if gate.verdict.exit_code == 0 else gate.verdict}: {gate.part.plan.name}"
        for gate in found.gates
    ]
    text = f"this {found.how} combination was verified, and no other ({'; '.join(told)})"
    print(text)
    if found.verdict is Verdict.FAIL:
        raise PolicyViolated(f"the combination does not meet every policy: {'; '.join(told)}")
    if found.verdict is Verdict.INCONCLUSIVE:
        raise Inconclusive(f"the combination could not be decided: {'; '.join(told)}")
