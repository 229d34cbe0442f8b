"""Reads policy files: the only door to this room that other rooms use."""

from pathlib import Path

from pydantic import ValidationError

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


def _read(path: Path) -> tuple[Policy, Source]:
    source = read_source(path)
    try:
        policy = Policy.model_validate(source.data)
    except ValidationError as error:
        add_schema_problems(error, source, policy_schema())
        raise source.error() from error
    source.raise_problems()
    return policy, source
