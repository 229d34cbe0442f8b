"""``safediff compare``: every system on one policy, in one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from safediff.verify.album import Album


def compare(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows", help="Row ids, `quick`, `default` or `all`; `default` if not given."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Rows that take minutes, as `--rows quick`.")
    ] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="table.json, table.md, pictures.png, tradeoff.svg."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; runs/<policy>/compare-<id> if not given.")
    ] = None,
    add_to: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE.json",
            help="Take rows from this comparison of the same plan; only others are measured.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Patches distilled at the same time, beside the drawing; if not given, one a core "
            "and at most 4, on a GPU or under torchrun 1.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure every system on the same base, prompts, latents, sampler and judge.

    Under torchrun all processes share the work. What is measured already is kept: run it again to
    go on, or to add rows; --add-to does so without the folder of the earlier rows.
    """
    from safediff.compare.rows import choose
    from safediff.policy.load import load_plan
    from safediff.workflow.comparison_files import check_outputs, refuse_pictures
    from safediff.workflow.hub_prompts import with_hub_prompts

    check_outputs(output or [])
    plan = load_plan(policy)
    asked = [*(rows or ()), *(["quick"] if quick else [])]
    chosen = choose(asked or ["default"], plan)
    plan = with_hub_prompts(plan)  # tables name the plan with its prompts
    earlier = None
    if add_to is not None:
        from safediff.compare.earlier import read_earlier

        earlier = read_earlier(add_to, plan)
        # a row that is asked for by name is measured again
        chosen = [row for row in chosen if row.id in (rows or ()) or not earlier.settles(row.id)]
        if not chosen:
            refuse_pictures(output or [], add_to)
    from safediff.cli.progress import RichUi
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.cli.plain_console import plain_console
    from safediff.compare.table import render, render_concepts
    from safediff.sample.shards import sharded
    from safediff.workflow.ahead import choose_num_jobs
    from safediff.workflow.compare import run_contest
    from safediff.workflow.comparison_files import write_outputs
    from safediff.workflow.held_folders import held_folder

    folder = out or Path("runs") / plan.name / f"compare-{plan.sha256[:8]}"
    albums: dict[str, Album] = {}
    with sharded() as shards, RichUi(quiet or not shards.leads) as ui:
        if earlier is not None and not chosen:  # the table has every row
            comparison = earlier.alone(plan)
        else:
            num_jobs = choose_num_jobs(jobs, shards)
            with held_folder(folder, shards):
                comparison, albums = run_contest(
                    plan, chosen, folder, ui, shards, named=rows or (), num_jobs=num_jobs
                )
            comparison = earlier.joined(comparison) if earlier is not None else comparison
    if shards.leads:
        write_outputs(comparison, albums, output or [])
        console = plain_console(width=max(plain_console().width, 150))
        console.print(render(comparison))
        by_concept = render_concepts(comparison)
        if by_concept is not None and console.measure(by_concept).minimum <= console.width:
            console.print()
            console.print(by_concept)
