"""Reads policy files: the only door to this room that other rooms use."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from safediff.errors import PolicyError, UsageError
from safediff.policy.messages import add_schema_problems
from safediff.policy.plan import Plan
from safediff.policy.resolve import resolve
from safediff.policy.schema import Policy, policy_schema
from safediff.policy.source import Source, read_source


def load_policy(path: Path) -> Policy:
    """Read a policy as it is written, without files, defaults and cross-checks.

    Raises:
        UsageError: the file cannot be read.
        PolicyError: with every finding.
    """
    return _read(path)[0]


def load_plan(path: Path) -> Plan:
    """Read a policy and resolve it into a plan. Imports no torch.

    Raises:
        UsageError: the file cannot be read.
        PolicyError: with every finding, sorted by line.
    """
    policy, source = _read(path)
    return resolve(policy, source)


def load_plans(paths: Sequence[Path]) -> list[Plan]:
    """Read several policies; what is wrong with any of them is told at once.

    Raises:
        UsageError: the only file cannot be read.
        PolicyError: with every finding of every file.
    """
    if len(paths) == 1:
        return [load_plan(paths[0])]
    plans: list[Plan] = []
    problems: list[str] = []
    for path in paths:
        try:
            plans.append(load_plan(path))
        except PolicyError as error:
            problems.extend(error.problems)
        except UsageError as error:
            problems.append(f"error: {error}\n  next: {error.next_step}")
    if problems:
        raise PolicyError(problems)
    return plans


def _read(path: Path) -> tuple[Policy, Source]:
    source = read_source(path)
    try:
        policy = Policy.model_validate(source.data)
    except ValidationError as error:
        add_schema_problems(error, source, policy_schema())
        raise source.error() from error
    source.raise_problems()
    return policy, source
