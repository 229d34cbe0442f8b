"""How numbers are written for people, in messages and in reports."""

from math import isfinite


def show(value: float | None) -> str:
    """Write a number with three significant digits; a dash where there is none."""
    if value is None or not isfinite(value):
        return "—"
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
