"""Tests that may stop at any sample, and bounds that hold at every sample: testing by betting.

A claim says E[a] > theta E[b] about samples (a, b) with a >= 0 and b in [0, 1]. A gambler starts
with a wealth of 1 and before every sample stakes a fraction f of it against the claim's opposite,

    g = a / theta - b   the return per unit staked, never below -1,
    W_n = prod_i (1 + f g_i).

Where the opposite E[a] <= theta E[b] holds, no sample has a positive mean return, so W is a
nonnegative supermartingale and P(W ever reaches 1 / alpha) <= alpha (Ville, 1939). So is a mixture
of such W over several fractions (method of mixtures: Robbins, 1970, Ann. Math. Stat. 41:1397;
Howard et al., arXiv:1810.08240), here over ``safediff.gate.stakes``; on hits and misses each W is a
likelihood ratio. Samples in between, like the share of hits among the pictures of one prompt, and
differences of paired samples are as good (Waudby-Smith and Ramdas, arXiv:2010.09686).

The four claims of the gate, x in [0, 1] being a share of hits, s and b shares of right pictures:

    the rate of hits is below m        a = 1 - x, b = 1, theta = 1 - m
    the rate of hits is above m        a = x,     b = 1, theta = m
    the ratio E[s] / E[b] is above r   a = s,     b = b, theta = r
    the ratio E[s] / E[b] is below r   a = b,     b = s, theta = 1 / r

g falls as theta grows, so what is proven for one theta is proven for every smaller one: the
largest such theta is a lower bound of E[a] / E[b] that holds at all samples at once.

Samples need not be alike. Where concepts take turns, in random order within each round, the mean of
W over any part of a round is at most what as many samples of the concepts' mean rate would give:
with a constant fraction it is an elementary symmetric mean (Maclaurin's inequality).
"""

from math import inf, log
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safediff.gate.stakes import DISPROVING, PROVING, Stakes
from safediff.gate.stats import Estimate, smallest

Floats = NDArray[np.float64]

INTERVAL = "betting mixture, anytime-valid, one-sided"
BISECTION_STEPS = 60

Reason = Literal["proven", "disproven", "out of reach", "too few", "undecidable"]
"""Why a check stopped. Out of reach: not even the best rest of the budget could prove the claim.
Too few: not even a flawless whole could have. Undecidable: a picture failed, or the judge does."""


class Stop(NamedTuple):
    """Where a check stopped, counted in prompts."""

    num_prompts: int
    budget: int
    """The most prompts that it could have drawn."""
    reason: Reason
    estimate: Estimate | None
    """At the stop, as observed: not corrected for the judge. None where there is none."""


def returns(a: Floats, b: Floats | float, theta: float) -> Floats:
    """Compute g = a / theta - b of every sample."""
    gains: Floats = a / theta - b
    return gains


def log_growth(gains: Floats, stakes: Stakes) -> Floats:
    """log(1 + f g) by fraction and sample, shape (fractions, ...); -inf where all is lost."""
    fractions = np.array(stakes.fractions).reshape(-1, *(1,) * gains.ndim)
    with np.errstate(divide="ignore"):
        growth: Floats = np.log1p(np.maximum(fractions * gains, -1.0))
    return growth


def mixed(log_wealth: Floats, stakes: Stakes) -> Floats:
    """Log wealth of the mixture from that of each fraction, shape (fractions, ...)."""
    shares = np.array(stakes.weights).reshape(-1, *(1,) * (log_wealth.ndim - 1))
    total: Floats = np.logaddexp.reduce(log_wealth + np.log(shares), axis=0)
    return total


def log_wealth(gains: Floats, stakes: Stakes) -> Floats:
    """Log wealth after every sample; samples run along the last axis."""
    return mixed(log_growth(gains, stakes).cumsum(axis=-1), stakes)


def settle(
    proving: Floats,
    disproving: Floats,
    flawless: Floats,
    best: Floats,
    confidence: float,
    earliest: int = 1,
) -> tuple[int, Reason] | None:
    """Find the first sample after which the answer is certain.

    Args:
        proving: returns on the claim, of the samples so far; shape (n,).
        disproving: returns on its opposite, of the same samples.
        flawless: returns on the claim of a model without fault, over the budget; shape (budget,).
        best: the most that each sample could return, at least as much; shape (budget,).
        confidence: of either answer.
        earliest: number of samples before which nothing is proven.

    Returns:
        How many samples it took and why no more are needed; None where some are.
    """
    target = -log(1 - confidence)
    wealth = log_growth(proving, PROVING).cumsum(axis=-1)
    proven = _first(mixed(wealth, PROVING) >= target)
    disproven = _first(log_wealth(disproving, DISPROVING) >= target)
    found: list[tuple[int, Reason]] = []
    if proven is not None and max(proven, earliest) <= proving.size:
        found.append((max(proven, earliest), "proven"))
    if disproven is not None:
        found.append((disproven, "disproven"))
    over = proving.size == best.size
    if log_wealth(flawless, PROVING)[-1] < target:
        found += [(best.size, "too few")] * over
    elif proven is None:
        lost = _first(mixed(wealth + _ahead(best, proving.size), PROVING) < target)
        found += [(lost or best.size, "out of reach")] * (over or lost is not None)
    return min(found, key=lambda stop: stop[0], default=None)


def _ahead(best: Floats, num_samples: int) -> Floats:
    """Log growth that is left after each of the first samples, by fraction."""
    growth = log_growth(best, PROVING)
    left: Floats = growth.sum(axis=1, keepdims=True) - growth[:, :num_samples].cumsum(axis=1)
    return left


def _first(mask: NDArray[np.bool_]) -> int | None:
    """Number of samples up to the first True."""
    return int(mask.argmax()) + 1 if mask.any() else None


def lower_bound(a: Floats, b: Floats, confidence: float, stakes: Stakes) -> float:
    """Largest theta for which E[a] > theta E[b] was proven at any sample so far; at least 0."""
    target = -log(1 - confidence)
    low, high = 0.0, 1.0  # of theta / (1 + theta), so that every ratio is within reach
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        gains = returns(a, b, middle / (1 - middle))
        if bool((log_wealth(gains, stakes) >= target).any()):
            low = middle
        else:
            high = middle
    return low / (1 - low)


def anytime_rate(shares: Floats, confidence: float) -> Estimate:
    """Estimate a rate from shares of hits per prompt, in the order in which they were drawn.

    Args:
        shares: in [0, 1], shape (prompts,); not empty.
        confidence: of each one-sided bound, over all stopping times.
    """
    one, value = np.ones_like(shares), float(shares.mean())
    return Estimate(
        value=value,
        lower=min(value, lower_bound(shares, one, confidence, DISPROVING)),
        upper=max(value, 1 - lower_bound(1 - shares, one, confidence, PROVING)),
        num_samples=shares.size,
        confidence=confidence,
        interval=INTERVAL,
    )


def anytime_ratio(base: Floats, safe: Floats, confidence: float) -> Estimate:
    """Estimate a ratio of right pictures, safe to base, from shares per prompt, in drawing order.

    Raises:
        ValueError: the base model was never right, so there is no ratio.
    """
    if not base.any():
        raise ValueError("the base model was never right, so there is no ratio")
    value = float(safe.sum() / base.sum())
    inverse = lower_bound(base, safe, confidence, DISPROVING)
    return Estimate(
        value=value,
        lower=min(value, lower_bound(safe, base, confidence, PROVING)),
        upper=max(value, 1 / inverse if inverse > 0 else inf),
        num_samples=base.size,
        confidence=confidence,
        interval=INTERVAL,
    )


def samples_to_prove(proving: Floats, confidence: float) -> int | None:
    """How many samples would prove the claim if they all brought the same mix of returns.

    Returns:
        The number, or None where the wealth of every fraction shrinks.
    """
    target = -log(1 - confidence)
    rate = log_growth(proving, PROVING).mean(axis=1)
    if not (rate > 0).any():
        return None
    return smallest(lambda n: float(mixed(rate * n, PROVING)) >= target)
