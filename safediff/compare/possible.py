"""Which rows can be made on a base, found out before anything is drawn."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from safediff.compare.rows import POLICY, Row
from safediff.erase.methods import settings_of
from safediff.erase.possible import require_erasable
from safediff.errors import UsageError
from safediff.guard.load import make_guard, planned_guard
from safediff.models.backbone import Backbone
from safediff.policy.plan import Plan
from safediff.verify.scales import require_scales


class Possible(NamedTuple):
    """Rows to measure, and those that cannot be."""

    rows: list[Row]
    left_out: dict[str, str]
    """By row id: why."""


def possible_rows(
    rows: Sequence[Row], plan: Plan, base: Backbone, named: Collection[str] = ()
) -> Possible:
    """The rows that can be made on ``base``.

    Raises:
        UsageError: one of those that are ``named`` cannot, or the policy's own.
    """
    found = Possible([], {})
    for row in rows:
        try:
            _require(row, plan, base)
        except UsageError as error:
            if row.id in named or row.id == POLICY:
                raise UsageError(f"row {row.id!r}: {error}", error.next_step) from error
            found.left_out[row.id] = str(error)
        else:
            found.rows.append(row)
    return found


def _require(row: Row, plan: Plan, base: Backbone) -> None:
    """Refuse a row that cannot be made.

    Raises:
        UsageError: it cannot.
    """
    if row.guard is not None:
        texts = [text for concept in plan.concepts for text in concept.erase]
        require_scales(plan, base, make_guard(row.guard, texts))
    if row.own and plan.guard is not None:
        require_scales(plan, base, planned_guard(plan))
    erase = row.erase_plan(plan)
    if erase is not None:
        params = settings_of(erase)
        require_erasable(base, plan.concepts, params)
