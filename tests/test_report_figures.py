"""Drawings put numbers where they belong."""

import re
from typing import Any

import pytest
from gate_examples import make_result

from safediff.gate.verdict import Threshold, Verdict
from safediff.report.charts import curve_svg
from safediff.report.data import Curve
from safediff.report.figures import MARGIN, WIDTH, describe, interval_svg
from safediff.report.scales import Scale

AXIS = (0.0, 0.1)
X = Scale(*AXIS, MARGIN, WIDTH - MARGIN)


def draw(axis: tuple[float, float] = AXIS, **changes: Any) -> str:
    fields = {"estimate": 0.02, "lower": 0.01, "upper": 0.04, "base_value": None, **changes}
    return interval_svg(make_result("erasure/all", Verdict.PASS, **fields), axis)


def number(svg: str, kind: str, attribute: str) -> float:
    found = re.search(rf'class="{kind}"[^>]* {attribute}="([-\d.]+)"', svg)
    assert found, (kind, attribute)
    return float(found[1])


def test_estimate_bounds_and_limit_are_where_the_axis_says() -> None:
    svg = draw()
    assert number(svg, "dot", "cx") == pytest.approx(X(0.02), abs=0.01)
    assert number(svg, "cap", "x1") == pytest.approx(X(0.01), abs=0.01)
    assert number(svg, "cap decides", "x1") == pytest.approx(X(0.04), abs=0.01)
    assert number(svg, "limit", "x1") == pytest.approx(X(0.05), abs=0.01)
    assert number(svg, "span", "x1") == pytest.approx(X(0.01), abs=0.01)
    assert number(svg, "span", "x2") == pytest.approx(X(0.04), abs=0.01)


@pytest.mark.parametrize(
    ("op", "bound", "left", "right"),
    [("<=", "upper", 0.0, 0.05), (">=", "lower", 0.05, 0.1)],
)
def test_the_allowed_side_is_shaded(op: Any, bound: Any, left: float, right: float) -> None:
    svg = draw(threshold=Threshold(op=op, value=0.05, bound=bound))
    start, width = number(svg, "allowed", "x"), number(svg, "allowed", "width")
    assert start == pytest.approx(X(left), abs=0.01)
    assert start + width == pytest.approx(X(right), abs=0.02)


def test_a_change_has_two_limits_and_both_bounds_decide() -> None:
    svg = draw((-0.1, 0.1), threshold=Threshold(op="abs<=", value=0.05, bound="both"))
    assert svg.count('class="limit"') == 2
    assert svg.count('class="cap decides"') == 2


def test_a_bound_beyond_the_axis_is_an_arrow_and_not_a_cap() -> None:
    svg = draw(upper=0.3)
    assert "cap decides" not in svg
    assert svg.count('class="arrow"') == 1
    assert draw(upper=None).count('class="arrow"') == 1


def test_a_value_without_an_interval_has_no_caps() -> None:
    exact = Threshold(op="<=", value=0.05, bound="value")
    svg = draw(threshold=exact, lower=0.02, upper=0.02)
    assert 'class="dot"' in svg
    assert 'class="cap' not in svg
    far = draw(threshold=exact, estimate=0.7, lower=0.7, upper=0.7)
    assert 'class="dot"' not in far
    assert 'class="arrow"' in far


def test_the_base_model_is_drawn_outside_the_lane_where_it_lies_beyond() -> None:
    inside, outside = draw(base_value=0.09), draw(base_value=0.93)
    assert f'points="{X(0.09):.2f},' in inside
    assert f'points="{WIDTH - MARGIN + 8:.2f},' in outside
    assert 'class="base"' not in draw()


def test_nothing_measured_says_so() -> None:
    svg = draw(estimate=None, lower=None, upper=None)
    assert ">not measured<" in svg
    assert 'class="dot"' not in svg


def test_the_drawing_is_described_in_words() -> None:
    row = make_result("erasure/all", Verdict.FAIL)
    assert describe(row) == "estimate 0.012, interval 0.002 to 0.034, limit ≤ 0.05, fail"
    assert f'aria-label="{describe(row)}"' in interval_svg(row, AXIS)


def chart(series: dict[str, tuple[tuple[float, float], ...]]) -> str:
    return curve_svg(Curve(title="Loss", x_label="step", y_label="loss", series=series))


def test_a_falling_curve_falls() -> None:
    points = re.search(r'points="([^"]+)"', chart({"loss": ((0, 1.0), (5, 0.5), (10, 0.0))}))
    assert points
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points[1].split())
    assert (x1 - x0) == pytest.approx(x2 - x1, abs=0.2)
    assert (y1 - y0) == pytest.approx(y2 - y1, abs=0.2)
    assert y2 > y0  # the y axis of a drawing points down


def test_series_differ_by_class_and_a_single_point_is_a_dot() -> None:
    svg = chart({"a": ((0, 1.0), (1, 2.0)), "b": ((0, 2.0), (1, 1.0)), "c": ((1, 1.5),)})
    assert 'class="series s0"' in svg
    assert 'class="series s1"' in svg
    assert 'class="point s2"' in svg


def test_a_chart_of_one_point_can_be_drawn() -> None:
    assert "<circle" in chart({"loss": ((3, 0.0),)})
