"""Ratio of two rates measured on the same pairs: P(right | safe) / P(right | base).

Score method of Nam and Blackwelder (2002), "Analysis of the ratio of marginal probabilities in a
matched-pair setting", Statistics in Medicine 21:689. Symbols, all per pair:

    q11 both right, q10 only the safe model right (a gain), q01 only the base right (a loss),
    p1 = q11 + q10 and p0 = q11 + q01 the two rates, theta = p1 / p0 their ratio.
"""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

from scipy.stats import norm

from safediff.gate.stats import Estimate, smallest

BISECTION_STEPS = 60


class PairCounts(NamedTuple):
    """The four cells; fractional where pairs are clustered and enter with an effective size."""

    both: float
    gains: float
    losses: float
    neither: float

    @property
    def total(self) -> float:
        """Number of pairs."""
        return self.both + self.gains + self.losses + self.neither

    def scaled(self, factor: float) -> "PairCounts":
        """Return the same proportions with another number of pairs."""
        return PairCounts(*(count * factor for count in self))

    def swapped(self) -> "PairCounts":
        """Return the pairs with base and safe exchanged."""
        return self._replace(gains=self.losses, losses=self.gains)


def constrained_discordance(pairs: PairCounts, theta: float) -> tuple[float, float]:
    """Maximum-likelihood q10 and q01 under p1 = theta * p0 (closed form of the paper)."""
    both, gains, losses, neither = (count / pairs.total for count in pairs)
    p1, p0 = both + gains, both + losses
    root = sqrt((p1 - theta**2 * p0) ** 2 + 4 * theta**2 * gains * losses)
    q10 = (-p1 + theta**2 * (p0 + 2 * gains) + root) / (2 * theta * (theta + 1))
    q01 = theta * q10 - (theta - 1) * (1 - neither)
    return max(q10, 0.0), max(q01, 0.0)


def ratio_z(pairs: PairCounts, theta: float) -> float:
    """Score statistic Z(theta); standard normal where theta is the true ratio."""
    p1 = (pairs.both + pairs.gains) / pairs.total
    p0 = (pairs.both + pairs.losses) / pairs.total
    q10, q01 = constrained_discordance(pairs, theta)
    return sqrt(pairs.total) * (p1 - theta * p0) / sqrt(theta * (q10 + q01))


def retained_lower(pairs: PairCounts, confidence: float) -> float:
    """Bound of the ratio with no loss seen: exact lower bound of q11 / p0, alpha**(1 / both).

    P(right | safe) is at least P(both right), so this also bounds the ratio, whatever was gained.
    """
    return float((1 - confidence) ** (1 / pairs.both)) if pairs.both > 0 else 0.0


def ratio_lower(pairs: PairCounts, confidence: float) -> float:
    """One-sided lower bound of the ratio.

    Without discordant pairs the score bound is both / (both + z**2), which is approximate where
    the normal distribution fits worst; there the exact ``retained_lower`` is taken. It is below 1
    and approaches 1 as pairs are added.

    Returns:
        The bound, at least 0; 0 where the safe model was never right.
    """
    value = _ratio(pairs)
    if value == 0:
        return 0.0
    if pairs.gains + pairs.losses == 0:
        return retained_lower(pairs, confidence)
    z = float(norm.ppf(confidence))
    return _bisect(lambda theta: ratio_z(pairs, theta) > z, low=0.0, high=value)


def ratio_upper(pairs: PairCounts, confidence: float) -> float:
    """One-sided upper bound of the ratio: the inverse of the lower bound of the inverse ratio."""
    if pairs.both + pairs.gains == 0:
        # Nothing to invert: the safe model was never right. Exact bound from the base-right pairs.
        return 1 - float((1 - confidence) ** (1 / pairs.losses))
    inverse = ratio_lower(pairs.swapped(), confidence)
    return 1 / inverse if inverse > 0 else float("inf")


def ratio(pairs: PairCounts, confidence: float) -> Estimate:
    """Estimate the ratio with its one-sided bounds.

    Raises:
        ValueError: the base model was never right, so there is no ratio.
    """
    exact = pairs.gains + pairs.losses == 0
    return Estimate(
        value=_ratio(pairs),
        lower=ratio_lower(pairs, confidence),
        upper=ratio_upper(pairs, confidence),
        num_samples=round(pairs.total),
        confidence=confidence,
        interval="exact, no discordant pair" if exact else "Nam-Blackwelder score, one-sided",
    )


def pairs_to_settle(pairs: PairCounts, min_ratio: float, confidence: float) -> int | None:
    """How many pairs would prove ``min_ratio`` if the proportions stayed; None if none would."""
    if _ratio(pairs) <= min_ratio:
        return None
    return smallest(lambda n: ratio_lower(pairs.scaled(n / pairs.total), confidence) >= min_ratio)


def _ratio(pairs: PairCounts) -> float:
    base_right = pairs.both + pairs.losses
    if base_right <= 0:
        raise ValueError("the base model was never right, so there is no ratio")
    return (pairs.both + pairs.gains) / base_right


def _bisect(above: Callable[[float], bool], low: float, high: float) -> float:
    """Find where ``above`` turns from true to false; the lower end, so that bounds stay safe."""
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return low
