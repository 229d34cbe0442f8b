"""What annotations, SARIF and JUnit share: which reports they speak of, and how a check is named.

They speak of the reports that decide: a failure of something that is measured for comparison only
would contradict the exit code.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from safediff.gate.verdict import CheckResult, GateReport


def deciding(reports: Sequence[GateReport]) -> list[GateReport]:
    """The reports that the verdict rests on.

    Raises:
        ValueError: there is none.
    """
    found = [report for report in reports if report.decides]
    if not found:
        raise ValueError("no gate report decides")
    return found


def rule_id(result: CheckResult) -> str:
    """``<concept>/<check>``: ``bomb/erasure``, ``near-neighbours/retention``, ``all/quality/kid``.

    It names no line and no number, so it stays the same from run to run.
    """
    parts = [part for part in result.id.split("/") if part != result.concept]
    return "-".join("/".join([result.concept, *parts]).split())


def sentence(report: GateReport, result: CheckResult, reports: Sequence[GateReport]) -> str:
    """The result's message; with its subject where several decide."""
    several = len(deciding(reports)) > 1
    return f"{report.subject}: {result.message}" if several else result.message


def policy_uri(policy: Path) -> str:
    """Path of the policy from the root of the repository, with forward slashes.

    The root is ``GITHUB_WORKSPACE``, or the working directory where that is not set; a policy
    outside it keeps its path.
    """
    root = Path(os.environ.get("GITHUB_WORKSPACE") or ".").resolve()
    path = policy.resolve()
    return (path.relative_to(root) if path.is_relative_to(root) else policy).as_posix()
