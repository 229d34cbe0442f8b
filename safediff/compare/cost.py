"""What a comparison costs in UNet passes, row by row, before any model is loaded."""

from collections.abc import Sequence
from typing import NamedTuple

from safediff.attack.params import find_attack
from safediff.compare.rows import Row
from safediff.policy.cost import erase_passes, search_passes
from safediff.policy.plan import Plan, num_branches


class RowCost(NamedTuple):
    """UNet sample passes of one row; a forward and backward counts three."""

    row: Row
    erase: int
    """0 for guards and closed forms, and where an earlier row erases the same way."""
    draw: int


def comparison_cost(plan: Plan, rows: Sequence[Row], distilled: bool = False) -> list[RowCost]:
    """Every row's passes, in order; what attacks draw of the base counts for the base's row.

    ``distilled``: see ``estimate_cost``.
    """
    num_images = plan.verify.num_images(len(plan.concepts))
    on_row, on_base = (plan.verify.num_attack_images(num_safe) for num_safe in (1, 0))
    plain = num_branches(plan.verify.sampling.guidance_scale, distilled)
    done, costs = set(), []
    for row in rows:
        branches = row.guidance_branches(plan, plain)
        erase = row.erase_plan(plan)
        passes = 0
        if erase is not None and repr(erase) not in done:
            done.add(repr(erase))
            passes = erase_passes(erase, distilled)
        base_only = row.guard is None and erase is None
        images = num_images + (on_base if base_only else on_row - on_base)
        draw = images * branches * plan.verify.sampling.num_steps
        draw += sum(
            search_passes(check)
            for check in plan.verify.attacks
            if not base_only or find_attack(check.name).changes_base
        )
        costs.append(RowCost(row, passes, draw))
    return costs
