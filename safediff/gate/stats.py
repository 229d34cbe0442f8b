"""Exact statistics of rates: Clopper-Pearson bounds, sample sizes, judge-error correction.

Every bound here is one-sided: a bound at confidence 0.95 is wrong in at most 5 % of repetitions.
An ``Estimate`` carries one lower and one upper bound, each at the stated confidence.

Counts may be fractional, because clustered samples enter with an effective size (see
``safediff.gate.clusters``); the beta quantiles are defined for them, as used by Korn and
Graubard (1998), Survey Methodology 24:193.
"""

from collections.abc import Callable
from typing import NamedTuple

from scipy.stats import beta, binomtest

MIN_YOUDEN = 0.1
"""A judge with sensitivity + specificity - 1 below this says nothing about the truth."""

MAX_SAMPLES = 10_000_000

Hits = tuple[int, int]
"""Hits and number of samples."""


class Estimate(NamedTuple):
    """A measured number with its one-sided bounds."""

    value: float
    lower: float
    upper: float
    num_samples: int
    confidence: float
    interval: str


class JudgeAccuracy(NamedTuple):
    """How often the judge finds what is there and passes what is not, with bounds."""

    sensitivity: Estimate
    specificity: Estimate


def _check_counts(hits: float, num_samples: float, confidence: float) -> None:
    if num_samples <= 0:
        raise ValueError(f"num_samples is {num_samples}, expected at least 1")
    if not 0 <= hits <= num_samples:
        raise ValueError(f"hits is {hits}, expected 0 to {num_samples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")


def rate_upper(hits: float, num_samples: float, confidence: float) -> float:
    """Exact one-sided upper bound of a rate (Clopper and Pearson, 1934, Biometrika 26:404).

    Raises:
        ValueError: no samples, hits outside 0..num_samples, or confidence outside (0, 1).
    """
    _check_counts(hits, num_samples, confidence)
    if hits == num_samples:
        return 1.0
    return float(beta.ppf(confidence, hits + 1, num_samples - hits))


def rate_lower(hits: float, num_samples: float, confidence: float) -> float:
    """Exact one-sided lower bound of a rate; the mirror image of ``rate_upper``."""
    return 1.0 - rate_upper(num_samples - hits, num_samples, confidence)


def rate(hits: float, num_samples: int, confidence: float) -> Estimate:
    """Estimate a rate from independent samples; ``hits`` may be a sum of shares in [0, 1]."""
    return Estimate(
        value=hits / num_samples,
        lower=rate_lower(hits, num_samples, confidence),
        upper=rate_upper(hits, num_samples, confidence),
        num_samples=num_samples,
        confidence=confidence,
        interval="Clopper-Pearson, one-sided",
    )


def smallest(enough: Callable[[int], bool]) -> int | None:
    """Find the smallest sample size that is enough; None if even ``MAX_SAMPLES`` is not.

    ``enough`` must stay true once it is true.
    """
    high = 1
    while not enough(high):
        if high >= MAX_SAMPLES:
            return None
        high = min(2 * high, MAX_SAMPLES)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def min_samples(max_rate: float, confidence: float, hits: int = 0) -> int:
    """Smallest number of samples that can prove a rate of at most ``max_rate`` with these hits.

    Raises:
        ValueError: ``max_rate`` is 0 or less (no number of samples proves it).
    """
    if max_rate <= 0:
        raise ValueError(f"max_rate is {max_rate}; no number of samples can prove it")
    found = smallest(lambda n: n >= hits and rate_upper(hits, n, confidence) <= max_rate)
    if found is None:
        raise ValueError(f"max_rate {max_rate} needs more than {MAX_SAMPLES} samples")
    return found


def samples_to_settle(value: float, max_rate: float, confidence: float) -> int | None:
    """How many samples would prove ``max_rate`` if the observed rate stayed at ``value``.

    Returns:
        The number, or None where the observed rate itself is at or above the limit.
    """
    if value >= max_rate:
        return None
    return smallest(lambda n: rate_upper(value * n, n, confidence) <= max_rate)


def rogan_gladen(rate: float, sensitivity: float, specificity: float) -> float | None:
    """True rate behind an observed one (Rogan and Gladen, 1978, Am. J. Epidemiol. 107:71).

    Returns:
        The corrected rate, clipped to [0, 1]; None where sensitivity + specificity - 1 is
        below ``MIN_YOUDEN``, so that a useless judge never yields a number.
    """
    youden = sensitivity + specificity - 1
    if youden < MIN_YOUDEN:
        return None
    return min(1.0, max(0.0, (rate + specificity - 1) / youden))


def observable_rate(true_rate: float, judge: JudgeAccuracy) -> float:
    """Observed rate that ``corrected`` maps to ``true_rate`` at its upper end."""
    return true_rate * judge.sensitivity.lower


def observable_limits(max_rate: float, judge: JudgeAccuracy) -> tuple[float, float] | None:
    """Observed rates that ``corrected`` maps to ``max_rate``, at its upper and at its lower end.

    An observed upper bound at or below the first proves the limit kept, an observed lower bound
    above the second proves it broken. None where the judge is too weak for either.
    """
    sensitivity, specificity = judge
    ends = ((sensitivity.lower, 1.0), (sensitivity.upper, specificity.lower))
    if any(rogan_gladen(max_rate, *end) is None for end in ends):
        return None
    youden = sensitivity.upper + specificity.lower - 1
    return observable_rate(max_rate, judge), max_rate * youden + 1 - specificity.lower


def corrected(observed: Estimate, judge: JudgeAccuracy) -> Estimate | None:
    """Correct a rate for the judge's errors, with the worst end of the judge on either side.

    The upper bound takes the low end of sensitivity and a specificity of 1, the highest there is:
    what a judge sees in pictures that nobody looked at may be there, so none of it is taken off.
    The lower bound takes the opposite ends. None where any of these is undefined (see
    ``rogan_gladen``).
    """
    sensitivity, specificity = judge
    value = rogan_gladen(observed.value, sensitivity.value, specificity.value)
    lower = rogan_gladen(observed.lower, sensitivity.upper, specificity.lower)
    upper = rogan_gladen(observed.upper, sensitivity.lower, 1.0)
    if value is None or lower is None or upper is None:
        return None
    return observed._replace(
        value=value,
        lower=min(lower, value),
        upper=max(upper, value),
        interval=f"{observed.interval}, Rogan-Gladen corrected",
    )


def mcnemar_exact(losses: int, gains: int) -> float:
    """Two-sided exact p-value of McNemar (1947) that losses and gains are equally likely."""
    if losses + gains == 0:
        return 1.0
    return float(binomtest(losses, losses + gains, 0.5).pvalue)
