"""Inline SVG, drawn by hand: line charts of loss, drift and the like."""

from collections.abc import Sequence

from safediff.report.data import Curve, Point
from safediff.report.figures import label
from safediff.report.markup import Html, el
from safediff.report.scales import Scale, nice_ticks

WIDTH, HEIGHT = 520.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 44.0
NUM_STYLES = 4
"""Dashes and colours; a fifth series starts over."""


def curve_svg(curve: Curve) -> Html:
    """Draw a line chart; series differ by dash as well as by colour."""
    points = [point for series in curve.series.values() for point in series]
    start, stop = min(x for x, _ in points), max(x for x, _ in points)
    x_ticks = [t for t in nice_ticks(start, stop) if start <= t <= stop or start == stop]
    y_ticks = nice_ticks(min(0.0, *(y for _, y in points)), max(y for _, y in points))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x = Scale(start, stop if stop > start else x_ticks[-1] + 1, LEFT, right)
    y = Scale(y_ticks[0], y_ticks[-1], bottom, TOP)
    parts = [
        *(el("line", class_="rule", x1=LEFT, x2=right, y1=y(t), y2=y(t)) for t in y_ticks),
        *(label(LEFT - 8, y(t) + 3.5, _tick(t), "end") for t in y_ticks),
        *(label(x(t), bottom + 17, _tick(t), "middle") for t in x_ticks),
        label((LEFT + right) / 2, HEIGHT - 6, curve.x_label, "middle", "axis"),
        *(_line(series, x, y, i) for i, series in enumerate(curve.series.values())),
    ]
    return el(
        "svg",
        *parts,
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=f"{curve.title}: {curve.y_label} against {curve.x_label}",
    )


def series_key(index: int) -> Html:
    """A short piece of a series' line, for the legend."""
    line = el("line", class_=f"series s{index % NUM_STYLES}", x1=0, x2=26, y1=5, y2=5)
    return el("svg", line, class_="key", viewBox="0 0 26 10", aria_hidden="true")


def _line(series: Sequence[Point], x: Scale, y: Scale, index: int) -> Html:
    style = f"s{index % NUM_STYLES}"
    if len(series) == 1:
        ((px, py),) = series
        return el("circle", class_=f"point {style}", cx=x(px), cy=y(py), r=3)
    path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in series)
    return el("polyline", class_=f"series {style}", points=path)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
