"""``safediff plan``: what a policy would do, and what it would cost, before anything runs."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    json_: Annotated[bool, typer.Option("--json", help="The whole plan as JSON.")] = False,
) -> None:
    """Show the resolved policy: concepts, eraser, checks, pictures and UNet passes."""
    import json

    from rich.console import Console
    from rich.table import Table

    from safediff.policy.cost import estimate_cost
    from safediff.policy.load import load_plan

    resolved = load_plan(policy)
    if json_:
        print(json.dumps(resolved.to_json(), indent=1, sort_keys=True))
        return
    table = Table(title=f"{resolved.name} · plan {resolved.sha256[:12]}", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value")
    table.add_row("model", resolved.model.base)
    for concept in resolved.concepts:
        table.add_row(f"erase {concept.name}", ", ".join(concept.erase))
    table.add_row("keep", f"{len(resolved.erase.keep)} texts")
    cost = estimate_cost(resolved)
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
    table.add_row("UNet passes, erase", f"{cost.erase_passes:,} (one sample each)")
    table.add_row("UNet passes, verify", f"{cost.verify_passes:,}")
    Console().print(table)
