"""What the sequential rule stakes, the same for every policy, and what a flawless series proves.

Without numpy, so that ``safediff validate`` stays quick. How it is played:
``safediff.gate.sequential``.
"""

import math
from typing import NamedTuple


class Stakes(NamedTuple):
    """Fractions of its wealth that a gambler puts at risk on every sample, and their shares."""

    fractions: tuple[float, ...]
    weights: tuple[float, ...]
    """How the first unit of wealth is split over the fractions; sum to 1."""


PROVING = Stakes((1.0, 0.8, 0.6, 0.4, 0.2), (0.15, 0.3, 0.35, 0.15, 0.05))
"""Fraction f grows fastest where the true failure rate is 1 - f of the allowed one.

Weight lies on rates well below the limit: closer ones take more samples than a budget has.
"""

DISPROVING = Stakes((0.8, 0.4, 0.2, 0.1, 0.05), (0.2,) * 5)
"""Halved step by step: large fractions for models that always fail, small ones near the limit."""


def flawless_log_wealth(allowed: float, num_samples: int) -> float:
    """Log wealth against "the failure rate is ``allowed`` or more" after no failure at all.

    Every sample returns ``allowed / (1 - allowed)`` per unit staked.
    """
    gain = allowed / (1 - allowed)
    logs = [
        math.log(weight) + num_samples * math.log1p(fraction * gain)
        for fraction, weight in zip(*PROVING, strict=True)
    ]
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs))
