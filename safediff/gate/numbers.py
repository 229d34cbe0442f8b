"""How numbers are written for people, in messages and in reports."""

from math import isfinite

EXACT = 17
"""Significant digits that tell any two floats apart."""


def show(value: float | None, limit: float | None = None) -> str:
    """Write a number with three significant digits; a dash where there is none.

    One that is held against a ``limit`` gets as many digits as it takes to stay on its side of it.
    """
    if value is None or not isfinite(value):
        return "—"
    text = _rounded(value)
    if limit is None:
        return text
    digits = 3
    while digits < EXACT and _side(_read(text), limit) != _side(value, limit):
        digits += 1
        text = f"{value:.{digits}g}"
    return text


def show_limit(limit: float, value: float) -> str:
    """Write a limit beside what ``show`` makes of the value: in full where rounding misleads."""
    text = show(limit)
    if not isfinite(value) or _side(_read(show(value, limit)), _read(text)) == _side(value, limit):
        return text
    return f"{limit:.{EXACT - 2}g}"


def _read(text: str) -> float:
    return float(text.replace(",", ""))


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)


def _rounded(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    digits = 2 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.3g}"


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is missing, infinite or not a number."""
    return None if value is None or not isfinite(value) else float(value)
