"""Erasure against retention, one mark per system, as an SVG file."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from safediff.compare.entry import Entry, Measured
from safediff.report.scales import Scale, nice_ticks

WIDTH, LEFT, RIGHT = 760.0, 64.0, 560.0
TOP, PLOT_PX, BETWEEN_PX, BOTTOM_PX = 34.0, 340.0, 64.0, 52.0
TALLEST = 1.05
"""Of retention ratios: estimates may pass 1."""
INK, QUIET, RULE, OWN = "#1b1b1f", "#6a6a72", "#e3e3e8", "#0b6bcb"
LABEL_PX = 13.0


class Mark(NamedTuple):
    """One system in the plane."""

    title: str
    x: Measured
    """Erasure rate; its upper bound decides."""
    y: Measured
    """Retention ratio; its lower bound decides."""
    own: bool


class Panel(NamedTuple):
    """A part of the plane, and where it is drawn."""

    x: Scale
    y: Scale

    def holds(self, mark: Mark) -> bool:
        """Whether the mark's estimates lie in it."""
        return self.x.holds(mark.x.estimate or 0.0) and self.y.holds(mark.y.estimate or 0.0)


class Plot(NamedTuple):
    """One retention group: everything that is drawn of it."""

    retention: str
    marks: Sequence[Mark]
    min_ratio: float


def marks(entries: Sequence[Entry], erasure: Sequence[str], retention: str, own: str) -> list[Mark]:
    """The rows that have both numbers; of several erasure checks, the one with the worst bound."""
    found = [(e, _worst(e, erasure), e.checks.get(retention)) for e in entries]
    return [
        Mark(entry.title, x, y, entry.id == own)
        for entry, x, y in found
        if x is not None and y is not None and x.estimate is not None and y.estimate is not None
    ]


def _worst(entry: Entry, erasure: Sequence[str]) -> Measured | None:
    found = [entry.checks[id] for id in erasure if id in entry.checks]
    if len(found) < len(erasure) or any(value.estimate is None for value in found):
        return None  # what could not be measured may be worse than the rest
    return max(found, key=lambda v: 1.0 if v.upper is None else v.upper, default=None)


def tradeoff_svg(
    chosen: Sequence[Mark], title: str, retention: str, max_rate: float, min_ratio: float
) -> str:
    """``tradeoff_plots`` of one retention group."""
    return tradeoff_plots([Plot(retention, chosen, min_ratio)], title, max_rate)


def tradeoff_plots(plots: Sequence[Plot], title: str, max_rate: float) -> str:
    """Scatter plots with one-sided bounds as whiskers; the policy's corner is shaded.

    One plot a retention group, one below the other. A release lies up and to the left in each:
    where several systems do, that corner is drawn again below, enlarged.
    """
    parts, height = [_text(LEFT, 20, title, "start")], 0.0
    for plot in plots:
        drawn, height = _plot(plot, height, max_rate)
        parts += drawn
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{WIDTH:g}" height="{height:g}" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _plot(plot: Plot, start: float, max_rate: float) -> tuple[list[str], float]:
    """A group's parts below ``start``, and where they end."""
    retention, chosen, min_ratio = plot
    first = start + TOP
    whole = Panel(Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, TALLEST, first + PLOT_PX, first))
    top = first + PLOT_PX + BETWEEN_PX
    corner = Panel(
        Scale(0.0, max(0.2, 2 * max_rate), LEFT, RIGHT),
        Scale(max(0.0, min_ratio - 0.15), TALLEST, top + PLOT_PX, top),
    )
    near = [mark for mark in chosen if corner.holds(mark)]
    panels = [(whole, list(chosen))]
    if len(near) > 1:
        panels = [(whole, [mark for mark in chosen if mark not in near]), (corner, near)]
    height = panels[-1][0].y.start + BOTTOM_PX
    x_title = "rate of erased concepts (whisker: upper bound)"
    middle = (first + height - BOTTOM_PX) / 2
    parts = [
        _text((LEFT + RIGHT) / 2, height - 12, x_title),
        f'<g transform="rotate(-90 18 {middle:.1f})">'
        + _text(18, middle, f"retention, {retention} (whisker: lower bound)")
        + "</g>",
    ]
    for panel, named in panels:
        parts += _panel(panel, chosen if panel is whole else near, named, max_rate, min_ratio)
    if len(panels) > 1:
        parts.append(_text(LEFT, top - 10, "its upper left corner, enlarged", "start", QUIET))
    return parts, height


def _panel(
    panel: Panel,
    drawn: Sequence[Mark],
    named: Sequence[Mark],
    max_rate: float,
    min_ratio: float,
) -> list[str]:
    """One plot: the policy's corner, grid, marks, and the titles of some of them."""
    x, y = panel
    x_ticks = [t for t in nice_ticks(x.low, x.high, 6) if x.holds(t)]
    y_ticks = [t for t in nice_ticks(y.low, 1.0, 6) if y.holds(t)]
    return [
        f'<rect x="{x(0):.1f}" y="{y.end:.1f}" width="{x(max_rate) - x(0):.1f}" '
        f'height="{y(min_ratio) - y.end:.1f}" fill="#d9f0de"/>',
        *(_rule(x(t), x(t), y.end, y.start) for t in x_ticks),
        *(_rule(x.start, x.end, y(t), y(t)) for t in y_ticks),
        *(_text(x(t), y.start + 18, f"{t:g}", "middle", QUIET) for t in x_ticks),
        *(_text(x.start - 8, y(t) + 4, f"{t:g}", "end", QUIET) for t in y_ticks),
        *(_mark(mark, x, y) for mark in drawn),
        *_labels(named, panel),
    ]


def _mark(mark: Mark, x: Scale, y: Scale) -> str:
    colour = OWN if mark.own else INK
    px, py = x(mark.x.estimate or 0.0), y(mark.y.estimate or 0.0)
    upper = x(mark.x.upper if mark.x.upper is not None else 1.0)
    lower = y(mark.y.lower if mark.y.lower is not None else 0.0)
    lines = f'<path d="M{px:.1f} {py:.1f}H{upper:.1f}M{px:.1f} {py:.1f}V{lower:.1f}" '
    dot = f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{5 if mark.own else 3.5}" fill="{colour}"/>'
    return f'{lines}stroke="{colour}" stroke-opacity="0.35" fill="none"/>{dot}'


def _labels(named: Sequence[Mark], panel: Panel) -> list[str]:
    """Titles in a column at the right, in the order of the marks, joined by thin lines."""
    x, y = panel
    ordered = sorted(named, key=lambda m: (y(m.y.estimate or 0.0), -(m.x.estimate or 0.0)))
    tops: list[float] = []
    for mark in ordered:
        wanted = y(mark.y.estimate or 0.0)
        tops.append(max(wanted, tops[-1] + LABEL_PX) if tops else wanted)
    overflow = max(0.0, (tops[-1] if tops else 0.0) - y.start)
    parts = []
    for mark, top in zip(ordered, tops, strict=True):
        at = top - overflow
        px, py = x(mark.x.estimate or 0.0), y(mark.y.estimate or 0.0)
        parts.append(
            f'<path d="M{px + 6:.1f} {py:.1f}L{x.end + 12:.1f} {at:.1f}" stroke="{QUIET}" '
            'stroke-opacity="0.4" stroke-width="0.7" fill="none"/>'
        )
        colour = OWN if mark.own else INK
        parts.append(_text(x.end + 16, at + 4, mark.title, "start", colour))
    return parts


def _rule(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{RULE}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
