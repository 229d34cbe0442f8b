"""Erasure against retention, one mark per system, as an SVG file."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from safediff.compare.entry import Entry, Measured
from safediff.report.scales import Scale, nice_ticks

WIDTH, HEIGHT = 760.0, 470.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 200.0, 34.0, 52.0
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


def marks(entries: Sequence[Entry], erasure: str, retention: str, own: str) -> list[Mark]:
    """The rows that have both numbers."""
    found = [(e, e.checks.get(erasure), e.checks.get(retention)) for e in entries]
    return [
        Mark(entry.title, x, y, entry.id == own)
        for entry, x, y in found
        if x is not None and y is not None and x.estimate is not None and y.estimate is not None
    ]


def tradeoff_svg(
    chosen: Sequence[Mark], title: str, retention: str, max_rate: float, min_ratio: float
) -> str:
    """A scatter plot with one-sided bounds as whiskers; the policy's corner is shaded.

    A release lies up and to the left.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x_ticks = nice_ticks(0.0, 1.0, 6)
    x, y = Scale(0.0, 1.0, LEFT, right), Scale(0.0, 1.05, bottom, TOP)
    parts = [
        f'<rect x="{x(0):.1f}" y="{y(1.05):.1f}" width="{x(max_rate) - x(0):.1f}" '
        f'height="{y(min_ratio) - y(1.05):.1f}" fill="#d9f0de"/>',
        *(_rule(x(t), x(t), TOP, bottom) for t in x_ticks),
        *(_rule(LEFT, right, y(t), y(t)) for t in x_ticks),
        *(_text(x(t), bottom + 18, f"{t:g}", "middle", QUIET) for t in x_ticks),
        *(_text(LEFT - 8, y(t) + 4, f"{t:g}", "end", QUIET) for t in x_ticks),
        _text((LEFT + right) / 2, HEIGHT - 12, "rate of erased concepts (whisker: upper bound)"),
        f'<g transform="rotate(-90 18 {(TOP + bottom) / 2:.1f})">'
        + _text(18, (TOP + bottom) / 2, f"retention, {retention} (whisker: lower bound)")
        + "</g>",
        _text(LEFT, 20, title, "start", INK),
    ]
    parts += [_mark(mark, x, y) for mark in chosen]
    parts += _labels(chosen, x, y, right)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="white"/>' + "".join(parts) + "</svg>\n"
    )


def _mark(mark: Mark, x: Scale, y: Scale) -> str:
    colour = OWN if mark.own else INK
    px, py = x(mark.x.estimate or 0.0), y(mark.y.estimate or 0.0)
    upper = x(mark.x.upper if mark.x.upper is not None else 1.0)
    lower = y(mark.y.lower if mark.y.lower is not None else 0.0)
    lines = f'<path d="M{px:.1f} {py:.1f}H{upper:.1f}M{px:.1f} {py:.1f}V{lower:.1f}" '
    dot = f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{5 if mark.own else 3.5}" fill="{colour}"/>'
    return f'{lines}stroke="{colour}" stroke-opacity="0.35" fill="none"/>{dot}'


def _labels(chosen: Sequence[Mark], x: Scale, y: Scale, right: float) -> list[str]:
    """Titles in a column at the right, in the order of the marks' heights, joined by thin lines."""
    ordered = sorted(chosen, key=lambda mark: y(mark.y.estimate or 0.0))
    tops: list[float] = []
    for mark in ordered:
        wanted = y(mark.y.estimate or 0.0)
        tops.append(max(wanted, tops[-1] + LABEL_PX) if tops else wanted)
    overflow = max(0.0, (tops[-1] if tops else 0.0) - (HEIGHT - 24))
    parts = []
    for mark, top in zip(ordered, tops, strict=True):
        at = top - overflow
        px, py = x(mark.x.estimate or 0.0), y(mark.y.estimate or 0.0)
        parts.append(
            f'<path d="M{px + 6:.1f} {py:.1f}L{right + 12:.1f} {at:.1f}" stroke="{QUIET}" '
            'stroke-opacity="0.3" stroke-width="0.7" fill="none"/>'
        )
        colour = OWN if mark.own else INK
        parts.append(_text(right + 16, at + 4, mark.title, "start", colour))
    return parts


def _rule(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{RULE}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
