"""How many steps a rollout takes on average: it runs to the largest u that is drawn for it.

``reuse`` distinct u are drawn one by one, each with a chance in proportion to its weight
(``safediff.erase.params.step_weights``). The same are drawn by letting every u arrive after an
exponential time of that rate and taking those that come first, which makes the times independent:
with W the sum of the weights beyond m,

    P(no u beyond m) = integral of W exp(-W t) P(at least K of 0 .. m came until t) dt

Imports no torch: costs are told before it is needed.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from safediff.erase.params import DistilParams, step_weights

_LOG_TIMES = np.arange(-25, 40, 0.05)
"""Of the integral's sum, for weights that add up to 1; what lies beyond is below rounding."""


def mean_steps(params: DistilParams) -> float:
    """Expected largest u of a rollout, in steps."""
    weights = [w for w in step_weights(params) if w]
    n, k = len(weights), params.reuse
    if params.timesteps != "beta":  # all alike
        return k * (n + 1) / (k + 1) - 1
    return n - 1 - sum(_at_most(weights, k))


def _at_most(weights: Sequence[float], k: int) -> Iterator[float]:
    """P(the largest of k u is at most m), for every m below the last."""
    rates = np.array(weights) / sum(weights)
    times, width = np.exp(_LOG_TIMES), _LOG_TIMES[1] - _LOG_TIMES[0]
    came = np.zeros((k + 1, len(times)))  # chance of so many by each time; the last: k or more
    came[0] = 1
    for m, rate in enumerate(rates[:-1]):
        new = came * -np.expm1(-rate * times)
        came -= new
        came[1:] += new[:-1]
        came[-1] += new[-1]
        beyond = rates[m + 1 :].sum()
        yield float((beyond * times * np.exp(-beyond * times) * came[-1]).sum() * width)
