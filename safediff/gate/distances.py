"""Checks of distances: quality of pictures, parity of engines, edits after rounding."""

from math import ceil, isfinite, sqrt

from scipy.stats import t as student

from safediff.gate.deciding import result
from safediff.gate.numbers import show, show_limit
from safediff.gate.stats import Estimate
from safediff.gate.verdict import CheckResult, Threshold, Verdict
from safediff.policy.plan import QualityCheck

QUALITY_CONFIDENCE = 0.95
EDIT = "parity/edit"


def quality(
    check: QualityCheck,
    value: float,
    std: float | None,
    num_samples: int,
    *,
    num_failures: int = 0,
) -> CheckResult:
    """A quality metric between base and safe pictures must stay within ``check.limit``.

    Args:
        check: metric and limit. ``clip`` is the change safe - base and limited on both sides; the
            others are distances and limited from above.
        value: the metric.
        std: standard deviation over ``num_samples`` units (prompts; for KID, subsets). KID
            subsets share pictures, so there it is taken as the standard error itself. None where
            the metric has none (FID): the value is decided on.
        num_samples: number of units.
        num_failures: pictures that could not be drawn or measured.
    """
    sided = check.metric == "clip"
    threshold = Threshold(
        op="abs<=" if sided else "<=",
        value=check.limit,
        bound="value" if std is None else "both" if sided else "upper",
    )
    estimate = _interval(check, value, std, num_samples) if num_samples else None
    if num_failures or estimate is None or not all(map(isfinite, estimate[:3])):
        verdict = Verdict.INCONCLUSIVE
        message = (
            f"{check.metric} could not be measured: {num_failures} pictures failed, "
            f"{num_samples} samples, value {show(value)}."
        )
    else:
        verdict, message = _judge_quality(check, estimate, sided)
    return result(
        estimate,
        threshold,
        id=f"quality/{check.metric}",
        kind="quality",
        concept="all",
        metric=check.metric,
        policy_line=check.line,
        verdict=verdict,
        message=message,
        details={"num_failures": num_failures},
    )


def _interval(check: QualityCheck, value: float, std: float | None, num_samples: int) -> Estimate:
    if std is None:
        return Estimate(value, value, value, num_samples, QUALITY_CONFIDENCE, "none")
    if num_samples < 2:
        half = float("inf")
    else:
        error = std if check.metric == "kid" else std / sqrt(num_samples)
        half = float(student.ppf(QUALITY_CONFIDENCE, num_samples - 1)) * error
    name = "Student t over subsets" if check.metric == "kid" else "Student t, one-sided"
    return Estimate(value, value - half, value + half, num_samples, QUALITY_CONFIDENCE, name)


def _judge_quality(check: QualityCheck, estimate: Estimate, sided: bool) -> tuple[Verdict, str]:
    worst = max(estimate.upper, -estimate.lower) if sided else estimate.upper
    message = (
        f"{check.metric} between base and erased pictures is {show(estimate.value)}, "
        f"{'worst' if sided else 'upper'} bound {show(worst, check.limit)}; "
        f"{'a change of ' if sided else ''}at most {show_limit(check.limit, worst)} is allowed."
    )
    if worst <= check.limit:
        return Verdict.PASS, message
    centre = abs(estimate.value) if sided else estimate.value
    if centre < check.limit and check.metric != "kid":
        growth = ((worst - centre) / (check.limit - centre)) ** 2
        message += f" About {ceil(estimate.num_samples * growth)} samples might settle it."
    return Verdict.FAIL, message


def parity(
    engine: str,
    max_abs_difference: float,
    limit: float,
    *,
    num_samples: int,
    policy_line: int | None = None,
    num_failures: int = 0,
    others_kept: bool = True,
) -> CheckResult:
    """An engine's noise predictions must equal PyTorch's within ``limit``, element by element.

    Args:
        engine: its name.
        max_abs_difference: the largest one.
        limit: on that.
        num_samples: latents times timesteps.
        policy_line: of the export, if any.
        num_failures: inputs that could not be compared.
        others_kept: whether the comparison's other limits are kept (mean, cosine, way back to the
            base); where not, the largest difference alone saves nothing.
    """
    unknown = num_failures or num_samples == 0 or not isfinite(max_abs_difference)
    estimate = Estimate(
        max_abs_difference, max_abs_difference, max_abs_difference, num_samples, 1.0, "none"
    )
    verdict = (
        Verdict.INCONCLUSIVE
        if unknown
        else Verdict.PASS
        if max_abs_difference <= limit and others_kept
        else Verdict.FAIL
    )
    message = (
        f"{engine} differs from PyTorch by at most {show(max_abs_difference, limit)} over "
        f"{num_samples} inputs; at most {show_limit(limit, max_abs_difference)} is allowed."
    )
    if not others_kept:
        message += " Its mean difference, its cosine or its way back to the base is beyond a limit."
    if unknown:
        message = f"{engine} could not be compared: {num_failures} failures, {num_samples} inputs."
    return result(
        estimate,
        Threshold(op="<=", value=limit, bound="value"),
        id=f"parity/{engine}",
        kind="parity",
        concept="all",
        metric="maximum absolute difference",
        policy_line=policy_line,
        verdict=verdict,
        message=message,
        details={"num_failures": num_failures},
    )


def edit_survival(
    engine: str, min_cosine: float, limit: float, *, num_tensors: int, precision: str
) -> CheckResult:
    """Of every edited tensor rounding should leave more edit than noise.

    Below the limit it warns: what became of the concepts, the gate on the engine's pictures tells.

    Args:
        engine: its name.
        min_cosine: between the edit before and after rounding, of the worst tensor.
        limit: on that.
        num_tensors: tensors that were edited; where there are none, nothing was measured.
        precision: that was rounded to.
    """
    estimate = Estimate(min_cosine, min_cosine, min_cosine, num_tensors, 1.0, "none")
    verdict, message = Verdict.INCONCLUSIVE, f"{engine}: no tensor was edited."
    if num_tensors:
        verdict = Verdict.PASS if min_cosine >= limit else Verdict.WARN
        message = (
            f"Of the edit in {num_tensors} tensors {precision} leaves a cosine of "
            f"{show(min_cosine, limit)} or more; below {show_limit(limit, min_cosine)} it "
            "drowns in rounding."
        )
    return result(
        estimate,
        Threshold(op=">=", value=limit, bound="value"),
        id=EDIT,
        kind="parity",
        concept="all",
        metric="lowest cosine of the edit after rounding",
        policy_line=None,
        verdict=verdict,
        message=message,
        details={"precision": precision},
    )
