"""Figures as inline SVG, drawn by hand: intervals against thresholds, curves over steps.

Colours come from the page's classes, sizes from attributes, so that no inline style is needed.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, isfinite, log10

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult
from safediff.report.words import expectation

WIDTH, HEIGHT, PAD = 360.0, 40.0, 8.0
MIDDLE = 16.0

CHART_WIDTH, CHART_HEIGHT = 520.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 12.0, 28.0
MAX_POINTS = 600
LOG_RANGE = 50.0
"""Curves that span more than this factor are drawn on a logarithmic axis."""

Domain = tuple[float, float]


def domain(results: Sequence[CheckResult]) -> Domain:
    """Axis that shows the intervals and thresholds of all ``results``, with room around them."""
    values = [
        value
        for result in results
        for value in (result.estimate, result.lower, result.upper)
        if value is not None
    ]
    limits = [result.threshold.value for result in results]
    if any(result.threshold.op == "abs<=" for result in results):
        reach = 1.25 * max(map(abs, (*values, *limits)))
        return -reach, reach
    if all(result.threshold.op == ">=" for result in results):
        low, high = min((*values, *limits)), max((*values, *limits, 1.0))
        return max(0.0, low - 0.35 * (high - low)), high + 0.04 * (high - low)
    return min((0.0, *values)), max(1.15 * max((0.0, *values)), 1.8 * max(limits)) or 1.0


def interval(result: CheckResult, axis: Domain) -> str:
    """One interval against its threshold: the allowed side shaded, the deciding end emphasised."""
    limit = result.threshold.value
    allowed = {"<=": (axis[0], limit), ">=": (limit, axis[1]), "abs<=": (-limit, limit)}
    start, end = (_x(value, axis) for value in allowed[result.threshold.op])
    marks = [
        f'<rect class="allowed" x="{_n(start)}" y="6" width="{_n(end - start)}" height="20"/>',
        f'<line class="axis" x1="{_n(PAD)}" x2="{_n(WIDTH - PAD)}" y1="26" y2="26"/>',
    ]
    limits = (-limit, limit) if result.threshold.op == "abs<=" else (limit,)
    for value in limits:
        x = _x(value, axis)
        marks.append(f'<line class="limit" x1="{_n(x)}" x2="{_n(x)}" y1="3" y2="29"/>')
        marks.append(_text(x, 38, show(value)))
    marks += _interval_marks(result, axis)
    described = (
        f"estimate {show(result.estimate)}, interval {show(result.lower)} to "
        f"{show(result.upper)}, expected {expectation(result.threshold)}"
    )
    return (
        f'<svg class="interval" viewBox="0 0 {_n(WIDTH)} {_n(HEIGHT)}" role="img" '
        f'aria-label="{escape(described)}">{"".join(marks)}</svg>'
    )


def _interval_marks(result: CheckResult, axis: Domain) -> list[str]:
    if result.estimate is None:
        middle = (PAD + WIDTH - PAD) / 2
        return [_text(middle, 20, "not measured")]
    marks = []
    if result.lower is not None and result.upper is not None and result.lower < result.upper:
        low, high = _x(result.lower, axis), _x(result.upper, axis)
        marks.append(
            f'<line class="range" x1="{_n(low)}" x2="{_n(high)}" y1="{_n(MIDDLE)}" '
            f'y2="{_n(MIDDLE)}"/>'
        )
        bound = result.threshold.bound
        for x, decides in ((low, bound in ("lower", "both")), (high, bound in ("upper", "both"))):
            reach = 7.0 if decides else 3.0
            marks.append(
                f'<line class="{"decides" if decides else "range"}" x1="{_n(x)}" x2="{_n(x)}" '
                f'y1="{_n(MIDDLE - reach)}" y2="{_n(MIDDLE + reach)}"/>'
            )
    marks.append(
        f'<circle class="estimate" cx="{_n(_x(result.estimate, axis))}" cy="{_n(MIDDLE)}" r="4"/>'
    )
    return marks


def _x(value: float, axis: Domain) -> float:
    share = (value - axis[0]) / (axis[1] - axis[0])
    return PAD + min(1.0, max(0.0, share)) * (WIDTH - 2 * PAD)


def _text(x: float, y: float, text: str) -> str:
    anchor = "start" if x < 30 else "end" if x > WIDTH - 30 else "middle"
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """A line over steps; logarithmic where the values are positive and span a wide range."""
    found = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if len(found) < 2:
        return ""
    found = found[:: ceil(len(found) / MAX_POINTS)] + [found[-1]]
    ys = [y for _, y in found]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > LOG_RANGE
    y_ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(*ys, 0.0), max(ys))
    x_ticks = _ticks(found[0][0], found[-1][0])
    x_axis, y_axis = (found[0][0], found[-1][0]), (y_ticks[0], y_ticks[-1])

    def place(x: float, y: float) -> tuple[str, str]:
        across = (x - x_axis[0]) / ((x_axis[1] - x_axis[0]) or 1.0)
        scale = log10 if logarithmic else float
        up = (scale(y) - scale(y_axis[0])) / ((scale(y_axis[1]) - scale(y_axis[0])) or 1.0)
        return (
            _n(LEFT + across * (CHART_WIDTH - LEFT - RIGHT)),
            _n(CHART_HEIGHT - BOTTOM - up * (CHART_HEIGHT - TOP - BOTTOM)),
        )

    marks = []
    for tick in y_ticks:
        _, y = place(x_axis[0], tick)
        marks.append(
            f'<line class="rule" x1="{_n(LEFT)}" x2="{_n(CHART_WIDTH - RIGHT)}" y1="{y}" y2="{y}"/>'
            f'<text x="{_n(LEFT - 8)}" y="{y}" dy="0.32em" text-anchor="end">{_tick(tick)}</text>'
        )
    for tick in (tick for tick in x_ticks if x_axis[0] <= tick <= x_axis[1]):
        x, _ = place(tick, y_axis[0])
        marks.append(
            f'<text x="{x}" y="{_n(CHART_HEIGHT - 8)}" text-anchor="middle">{_tick(tick)}</text>'
        )
    line = " ".join(",".join(place(x, y)) for x, y in found)
    end_x, end_y = place(*found[-1])
    marks.append(f'<polyline class="curve" points="{line}"/>')
    marks.append(f'<circle class="end" cx="{end_x}" cy="{end_y}" r="3.5"/>')
    described = f"{title}: from {show(ys[0])} to {show(ys[-1])} over {len(points)} points"
    return (
        f'<svg class="chart" viewBox="0 0 {_n(CHART_WIDTH)} {_n(CHART_HEIGHT)}" role="img" '
        f'aria-label="{escape(described)}">{"".join(marks)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose ``low`` and ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** floor(log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 4.5)
    first = floor(low / step + 1e-9)
    last = max(first + 1, ceil(high / step - 1e-9))
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose ``low`` and ``high``."""
    return [10.0**power for power in range(floor(log10(low)), ceil(log10(high)) + 1)]


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
