"""``safediff plan``: what a policy would do, and what it would cost, before anything runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from safediff.policy.cost import Cost
    from safediff.policy.plan import ModelPlan, Plan


def plan(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="What `safediff compare` would cost, row by row.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", envvar="SAFEDIFF_PLAN_JSON", help="The whole plan as JSON.")
    ] = False,
) -> None:
    """Show the resolved policy: concepts, eraser, checks, pictures, UNet passes, memory."""
    import json

    from rich.table import Table

    from safediff.cli.memory import memory_rows
    from safediff.cli.plain_console import plain_console
    from safediff.models.architecture import guidance_is_distilled
    from safediff.policy.base_model import EMBEDDED
    from safediff.policy.cost import estimate_cost, student_passes
    from safediff.policy.load import load_plan

    resolved = load_plan(policy)
    if json_:
        print(json.dumps(resolved.to_json(), indent=1, sort_keys=True))
        return
    _require_loadable(resolved.model)
    if compare:
        table, lines = _comparison(resolved)
        plain_console().print(table, *lines, sep="\n")
        _say_notes(resolved)
        return
    table = Table(title=f"{resolved.name} · plan {resolved.sha256[:12]}", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value")
    table.add_row("model", resolved.model.base)
    for concept in resolved.concepts:
        table.add_row(f"erase {concept.name}", ", ".join(concept.erase))
    table.add_row("keep", f"{len(resolved.erase.keep)} texts")
    cost = estimate_cost(resolved, guidance_is_distilled(resolved.model))
    table.add_row("eraser", f"{resolved.erase.method}, preset {resolved.erase.preset}")
    check = resolved.verify.erasure
    table.add_row("check erasure", f"upper bound <= {check.max_rate:g} over {check.over}")
    for kept in resolved.verify.retention:
        table.add_row(f"check {kept.name}", f"ratio, lower bound >= {kept.min_ratio:g}")
    for quality in resolved.verify.quality:
        table.add_row(f"check {quality.metric}", f"limit {quality.limit:g}")
    for attack in resolved.verify.attacks:
        limit = "for information"
        if attack.max_rate is not None:
            limit = f"upper bound <= {attack.max_rate:g}"
        table.add_row(f"attack {attack.name}", f"{limit}, {len(attack.attempts)} prompts")
    table.add_row("export", ", ".join(resolved.export.targets) + f" {resolved.export.precision}")
    table.add_row("pictures", f"{cost.num_images:,} over base, result and engines")
    most = "at most " if resolved.erase.options.get("stop_at") else ""
    table.add_row("UNet passes, erase", f"{most}{cost.erase_passes:,} (one sample each)")
    table.add_row("UNet passes, verify", f"{cost.verify_passes:,}")
    if student := student_passes(resolved, guidance_is_distilled(resolved.model)):
        table.add_row("student", f"+ {student:,} passes of verify, on top: it is drawn beside")
    if resolved.model.base != EMBEDDED:
        table.add_row("GPU hours", _hours(resolved, cost))
        if "onnx" in resolved.export.targets:
            table.add_row("engine pictures", _engine_pictures())
        for row in memory_rows(resolved):
            table.add_row(*row)
    plain_console().print(table)
    _say_notes(resolved)


def _say_notes(plan: "Plan") -> None:
    """What the policy leaves out or does not go with, on stderr; as JSON the plan has it itself."""
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)


def _require_loadable(model: "ModelPlan") -> None:
    """Refuse a single file that would be refused once it is loaded."""
    if not Path(model.base).is_file():
        return
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.models.load import single_file_pipeline

    single_file_pipeline(Path(model.base), model.config)


NOT_ESTIMATED = "not estimated: what a pass computes is known only once the model is loaded"


def _hours(plan: "Plan", cost: "Cost") -> str:
    from safediff.cli.hours import Hours
    from safediff.models.architecture import find_architecture

    found = find_architecture(plan.model)
    if found is None:
        return NOT_ESTIMATED
    hours = Hours.of(found)
    erase, verify = hours(cost.erase_passes), hours(cost.verify_passes)
    return f"about {erase:.1f} + {verify:.1f}, {hours.rests_on}"


def _engine_pictures() -> str:
    """Where ONNX Runtime would draw them on this machine."""
    import onnxruntime as ort

    from safediff.errors import Inconclusive
    from safediff.export.providers import CPU_PROVIDER, CUDA_PROVIDER, drawing_provider

    try:
        provider = drawing_provider()
    except Inconclusive as error:
        return f"nowhere: {error}"
    if provider != CPU_PROVIDER:
        return "on CUDA"
    there = CUDA_PROVIDER in ort.get_available_providers()
    lacking = "no GPU" if there else "onnxruntime-gpu not"
    return f"on the CPU ({lacking} found here)"


def _comparison(plan: "Plan") -> "tuple[Table, list[str]]":
    """The rows of a comparison with their UNet passes, and what the memory needs to be."""
    from rich.table import Table

    from safediff.cli.comparison_memory import comparison_memory
    from safediff.cli.hours import Hours
    from safediff.cli.memory import NOT_ESTIMATED as NO_MEMORY
    from safediff.compare.cost import comparison_cost
    from safediff.compare.rows import choose
    from safediff.models.architecture import find_architecture, guidance_is_distilled
    from safediff.policy.base_model import EMBEDDED

    costs = comparison_cost(plan, choose(["default"], plan), guidance_is_distilled(plan.model))
    total = sum(cost.erase + cost.draw for cost in costs)
    lines: list[str] = []
    title = f"{plan.name} · {total:,} UNet passes in all"
    if plan.model.base != EMBEDDED:
        if (found := find_architecture(plan.model)) is None:
            title += f", GPU hours {NOT_ESTIMATED}"
            lines = [f"memory: {NO_MEMORY}"]
        else:
            hours = Hours.of(found)
            title += f", about {hours(total):.0f} GPU hours, {hours.rests_on}"
            lines = comparison_memory(plan, found, [cost.row for cost in costs])
    table = Table(title=title, title_justify="left")
    for heading in ("row", "system"):
        table.add_column(heading)
    for heading in ("passes, erase", "passes, draw"):
        table.add_column(heading, justify="right")
    for row, erase, draw in costs:
        table.add_row(row.id, row.title_for(plan), f"{erase:,}", f"{draw:,}")
    return table, lines
