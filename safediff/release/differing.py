"""Where a certificate says something else than its plan, its own numbers or its journal."""

from collections.abc import Iterator, Mapping
from math import isclose
from typing import Any

from safediff.gate.distances import EDIT
from safediff.gate.robustness import ALIGNMENT
from safediff.gate.verdict import CheckResult, GateReport, Verdict
from safediff.policy.plan import Plan

TOLERANCE = 1e-9
"""Relative; quantiles differ in their last digits from one numerical library to the next."""

_NUMBERS = ("estimate", "lower", "upper", "confidence", "base_value")
_FACTS = ("num_samples", "threshold", "verdict", "gating", "policy_line", "kind", "metric")
_ENGINE_PARITY = "parity/onnx engine"


def missing(plan: Plan, report: GateReport, counted: Mapping[str, CheckResult]) -> Iterator[str]:
    """Checks of the plan without a row, and rows that the plan does not ask for."""
    expected = [*counted, *(f"quality/{check.metric}" for check in plan.verify.quality)]
    if report.decides and plan.verify.attacks:
        expected.append(ALIGNMENT)
    if "engine" in report.model_sha256:
        expected += [_ENGINE_PARITY, EDIT]
    present = [result.id for result in report.results]
    for name in expected:
        if name not in present:
            yield f"{name}: the certificate lacks this check"
    for name in present:
        if name not in expected:
            yield f"{name}: the plan has no such check"


def misdecided(plan: Plan, certified: CheckResult) -> Iterator[str]:
    """A verdict that does not follow from its numbers, or a limit that is not the plan's."""
    informs = certified.id == ALIGNMENT
    if certified.gating is informs:
        yield f"{certified.id}: gating {certified.gating}, the plan says {not certified.gating}"
    if informs:
        return
    limits = {f"quality/{check.metric}": check.limit for check in plan.verify.quality}
    limit = limits.get(certified.id, certified.threshold.value)
    if certified.threshold.value != limit:
        yield f"{certified.id}: limit {certified.threshold.value:g}, the plan says {limit:g}"
    kept = _kept(certified)
    if certified.verdict is Verdict.PASS and not kept:
        yield f"{certified.id}: verdict pass, but its numbers miss the limit"
    if certified.verdict is Verdict.FAIL and kept:
        yield f"{certified.id}: verdict fail, but its numbers keep the limit"


def _kept(result: CheckResult) -> bool:
    threshold = result.threshold
    ends = {
        "upper": (result.upper,),
        "lower": (result.lower,),
        "both": (result.lower, result.upper),
        "value": (result.estimate,),
    }[threshold.bound]
    if None in ends:
        return False
    numbers = [value for value in ends if value is not None]
    if threshold.op == ">=":
        return min(numbers) >= threshold.value
    if threshold.op == "abs<=":
        numbers = [abs(value) for value in numbers]
    return max(numbers) <= threshold.value


def differences(certified: CheckResult, found: CheckResult) -> Iterator[str]:
    """Where the certificate says something else than its journal."""
    for name in _NUMBERS:
        said, counted = getattr(certified, name), getattr(found, name)
        if not _equal(said, counted):
            yield f"{certified.id}: {name} {_shown(said)}, recounted {_shown(counted)}"
    for name in _FACTS:
        said, counted = getattr(certified, name), getattr(found, name)
        if said != counted:
            yield f"{certified.id}: {name} {said}, recounted {counted}"
    for name, counted in found.details.items():
        if name not in certified.details or not _equal(certified.details[name], counted):
            yield f"{certified.id}: {name} {certified.details.get(name)}, recounted {counted}"


def _equal(said: Any, counted: Any) -> bool:
    if isinstance(said, float | int) and isinstance(counted, float | int):
        return isclose(said, counted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(said == counted)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
