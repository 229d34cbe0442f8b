"""Draws the README's figure from the verdict files of a run: before and after, with intervals.

python scripts/readme_figure.py runs/demo-weapons/ID -o docs/figures/demo-weapons.svg
"""

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from safediff.gate.numbers import show
from safediff.gate.verdict import CheckResult, GateReport, load_report
from safediff.report.scales import Scale

WIDTH, LANE, HEAD, FOOT = 860.0, 40.0, 62.0, 40.0
LEFT, RIGHT = 250.0, 250.0
INK, QUIET, RULE, GOOD, BAD = "#1b1b1f", "#6a6a72", "#dcdce2", "#0a7d3f", "#b3261e"


class Lane(NamedTuple):
    """One line of the figure; every number is a share of prompts, or a ratio of two."""

    name: str
    before: float
    result: CheckResult


def main() -> None:
    """Read the run, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch = load_report(args.run / "verdict.teacher.json")
    engine = load_report(args.run / "verdict.onnx-engine.json")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(draw(torch.policy_name, lanes(torch, engine)), encoding="utf-8")


def lanes(torch: GateReport, engine: GateReport) -> list[Lane]:
    """Erasure and retention of the PyTorch UNet and of the engine."""
    found = []
    for name, report in (("PyTorch", torch), ("ONNX engine", engine)):
        for result in report.results:
            if not result.gating or result.estimate is None:
                continue
            if result.kind == "erasure":
                words = "erased concepts" if result.concept == "all" else result.concept
                found.append(Lane(f"{words}, {name}", result.base_value or 0.0, result))
            elif result.kind == "retention":
                found.append(Lane(f"{result.id.partition('/')[2]}, {name}", 1.0, result))
    return sorted(found, key=lambda lane: lane.result.kind)


def draw(policy: str, chosen: Sequence[Lane]) -> str:
    """The figure as SVG text."""
    height = HEAD + LANE * len(chosen) + FOOT
    x = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    bottom = height - FOOT
    parts = [
        text(16, 26, f"{policy}: before ○ and after ●, one-sided 95 % bounds", INK, size=16),
        text(16, 46, "bars mark what the policy asks for", QUIET),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(x(tick), HEAD, x(tick), bottom, RULE))
        parts.append(text(x(tick), bottom + 20, f"{tick:g}", QUIET, "middle"))
    for row, lane in enumerate(chosen):
        parts += one_lane(lane, x, HEAD + LANE * (row + 0.5))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img">'
        f"<title>{escape(policy)}: rates before and after erasing</title>"
        f'<rect width="{WIDTH:g}" height="{height:g}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def one_lane(lane: Lane, x: Scale, y: float) -> list[str]:
    """Base, estimate with its interval, limit, and the numbers in words."""
    result = lane.result
    value = result.estimate or 0.0
    low = result.lower if result.lower is not None else value
    high = result.upper if result.upper is not None else value
    limit = result.threshold.value
    met = result.verdict.exit_code == 0
    colour = GOOD if met else BAD
    deciding = high if result.threshold.bound == "upper" else low
    sign = "at most" if result.threshold.bound == "upper" else "at least"
    words = f"{show(value)}, {sign} {show(deciding)} (n = {result.num_samples})"
    return [
        text(LEFT - 16, y + 4, lane.name, INK, "end"),
        line(x(value), y, x(lane.before), y, RULE, 2),
        line(x(low), y, x(high), y, colour, 5),
        line(x(limit), y - 13, x(limit), y + 13, INK, 2),
        circle(x(lane.before), y, "white", QUIET),
        circle(x(value), y, colour, colour),
        text(WIDTH - RIGHT + 16, y + 4, words, colour),
    ]


def text(x: float, y: float, words: str, colour: str, anchor: str = "start", size: int = 13) -> str:
    """A piece of text."""
    place = f'x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{escape(words)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    """A straight line."""
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width:g}"/>'


def circle(x: float, y: float, fill: str, stroke: str) -> str:
    """A mark."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{stroke}" '
        'stroke-width="2"/>'
    )


if __name__ == "__main__":
    main()
