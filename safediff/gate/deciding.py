"""How an interval is held against a limit. Shared by all checks.

The policy states the bound: missing it is FAIL even where the estimate itself looks fine. Only
where no result at this sample size could have met the limit is the check INCONCLUSIVE instead,
unless the other bound already proves the limit missed.
"""

from typing import Any

from safediff.gate.numbers import finite
from safediff.gate.sequential import Stop
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


def stopped(stop: Stop, flawless: str, best: str) -> tuple[Verdict, str]:
    """Decide a check under the sequential rule, and say in a sentence what stopped it.

    Args:
        stop: for any reason but "undecidable".
        flawless: how the whole budget would look without fault: "without a loss".
        best: how the rest of it would look at best: "if all were right".
    """
    left = stop.budget - stop.num_prompts
    hopeless = f"the other {left} could not prove it, even {best}" if left else "none is left"
    verdict, why = {
        "proven": (Verdict.PASS, "the limit is proven to be kept"),
        "disproven": (Verdict.FAIL, "the limit is proven to be broken"),
        "out of reach": (Verdict.FAIL, hopeless),
        "too few": (Verdict.INCONCLUSIVE, f"too few to prove it, even {flawless}"),
    }[stop.reason]
    return verdict, f"Stopped after {stop.num_prompts} of at most {stop.budget} prompts: {why}."


def stop_details(stop: Stop | None) -> dict[str, str | int]:
    """The rule that ended a check, for its details; nothing where n was fixed."""
    if stop is None:
        return {}
    return {"rule": "sequential", "stopped_by": stop.reason, "budget_prompts": stop.budget}


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
