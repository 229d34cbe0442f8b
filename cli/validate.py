"""``safediff validate``: is a policy well-formed, and could its checks ever pass?"""

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safediff.policy.plan import Plan


def validate(
    policies: Annotated[list[Path], typer.Argument(metavar="POLICY", help="Policy files.")],
) -> None:
    """Check policies: schema, texts, content rules, and whether their checks could pass.

    Loads no model. Every finding of every file is printed.
    """
    from safediff.errors import PolicyError, UsageError
    from safediff.policy.load import load_plan

    problems: list[str] = []
    for path in policies:
        try:
            plan = load_plan(path)
        except PolicyError as error:
            problems.extend(error.problems)
        except UsageError as error:
            problems.append(f"error: {error}\n  next: {error.next_step}")
        else:
            print(_summary(path, plan))
            for note in (*plan.notes, *_expired(plan)):
                print(f"{path}: note: {note}", file=sys.stderr)
    if problems:
        raise PolicyError(problems)


def _expired(plan: "Plan") -> "Iterator[str]":
    """Waivers that are over, by UTC as the gate counts; no notes of the plan, which has no date."""
    today = datetime.now(UTC).date()
    for waiver in plan.waivers:
        if date.fromisoformat(waiver.expires) < today:
            yield f"waiver of {waiver.check} expired on {waiver.expires}: it counts as FAIL"


def _summary(path: Path, plan: "Plan") -> str:
    concepts = "1 concept" if len(plan.concepts) == 1 else f"{len(plan.concepts)} concepts"
    limited = [attack for attack in plan.verify.attacks if attack.max_rate is not None]
    num_checks = 1 + len(plan.verify.retention) + len(plan.verify.quality) + len(limited)
    checks = "1 check" if num_checks == 1 else f"{num_checks} checks"
    return f"{path}: valid, {concepts}, {checks}, {plan.num_images} images"
