"""From numbers to positions in a drawing."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple

from safediff.gate.verdict import CheckResult

MAX_LIMITS = 20.0
"""An axis reaches at most this many times the limit; what lies beyond is drawn as an arrow."""


class Scale(NamedTuple):
    """A linear map from numbers to coordinates."""

    low: float
    high: float
    start: float
    """Coordinate of ``low``."""
    end: float

    def __call__(self, value: float) -> float:
        """Coordinate of a number, within the drawing even if the number is not."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether the number lies on the axis."""
        return self.low <= value <= self.high


def check_domain(results: Sequence[CheckResult]) -> tuple[float, float]:
    """Ends of the axis on which one check's results for several subjects are compared.

    The limit always lies on it. Rates and distances start at 0, changes are symmetric about 0,
    what must be at least the limit reaches 1. The ends are round.
    """
    threshold = results[0].threshold
    limit = threshold.value
    values = [v for r in results for v in (r.estimate, r.lower, r.upper) if v is not None]
    if threshold.op == ">=":
        high = max(min(max([*values, limit]), 1.5 * max(limit, 1.0)), 1.0)
        low = min([*values, limit])
        return _outward(max(0.0, low - 0.5 * (high - low)), high)
    largest = max([*map(abs, values), 1.8 * limit]) or 1.0
    reach = min(largest, MAX_LIMITS * limit) if limit > 0 else largest
    if threshold.op == "abs<=":
        return _outward(-reach, reach)
    return _outward(max(min([*values, 0.0]), -reach), reach)


def _outward(low: float, high: float) -> tuple[float, float]:
    """Move both ends outward to multiples of a fifth of the span's power of ten."""
    step = 10.0 ** floor(log10(high - low)) / 5
    low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    return round(low, 12), round(high, 12)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that cover low to high, the ends included or passed."""
    span = (high - low) or abs(high) or 1.0
    raw = span / (count - 1)
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
