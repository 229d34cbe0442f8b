"""How an interval is held against a limit. Shared by all checks.

The policy states the bound: missing it is FAIL even where the estimate itself looks fine. Only
where no result at this sample size could have met the limit is the check INCONCLUSIVE instead,
unless the other bound already proves the limit missed.
"""

from typing import Any

from safediff.gate.numbers import finite
from safediff.gate.stats import Estimate
from safediff.gate.verdict import CheckResult, Threshold, Verdict


def at_most(estimate: Estimate, limit: float, best_upper: float) -> Verdict:
    """Decide "the rate is at most limit"; ``best_upper`` is the bound of a perfect result."""
    if estimate.upper <= limit:
        return Verdict.PASS
    if estimate.lower > limit or best_upper <= limit:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE


def at_least(estimate: Estimate, limit: float, best_lower: float) -> Verdict:
    """Decide "the rate is at least limit"; ``best_lower`` is the bound of a perfect result."""
    if estimate.lower >= limit:
        return Verdict.PASS
    if estimate.upper < limit or best_lower >= limit:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE


def result(
    estimate: Estimate | None,
    threshold: Threshold,
    *,
    confidence: float | None = None,
    interval: str = "none",
    num_samples: int = 0,
    **fields: Any,
) -> CheckResult:
    """Build a result; the numbers come from ``estimate`` where there is one."""
    if estimate is not None:
        confidence, interval = estimate.confidence, estimate.interval
        num_samples = estimate.num_samples
    fields = {"policy_line": None, "base_value": None, **fields}
    return CheckResult(
        estimate=finite(estimate.value) if estimate else None,
        lower=finite(estimate.lower) if estimate else None,
        upper=finite(estimate.upper) if estimate else None,
        confidence=confidence,
        interval=interval,
        num_samples=num_samples,
        threshold=threshold,
        **fields,
    )
