"""Axes hold what they must show."""

from itertools import pairwise

import pytest
from gate_examples import make_result

from safediff.gate.verdict import Threshold, Verdict
from safediff.report.scales import Scale, check_domain, nice_ticks


def test_a_scale_is_linear_and_stays_in_the_drawing() -> None:
    scale = Scale(0.0, 2.0, 10.0, 110.0)
    assert [scale(v) for v in (-1, 0, 0.5, 2, 9)] == [10, 10, 35, 110, 110]
    assert scale.holds(2.0)
    assert not scale.holds(2.1)


def test_a_rate_starts_at_zero_and_shows_limit_and_bounds() -> None:
    low, high = check_domain([make_result("erasure/all", Verdict.PASS)])
    assert low == 0
    assert 0.05 < high < 0.2


def test_subjects_share_an_axis() -> None:
    small = make_result("erasure/all", Verdict.PASS)
    large = make_result("erasure/all", Verdict.FAIL, estimate=0.9, lower=0.8, upper=0.95)
    _, high = check_domain([small, large])
    assert high >= 0.95


def test_a_wild_value_does_not_squeeze_the_limit_away() -> None:
    wild = make_result("quality/kid", Verdict.FAIL, estimate=900.0, lower=800.0, upper=1000.0)
    _, high = check_domain([wild])
    assert 0.05 * 10 < high < 0.05 * 30


def test_a_ratio_reaches_one_and_shows_what_is_above() -> None:
    limit = Threshold(op=">=", value=0.5, bound="lower")
    row = make_result(
        "collapse", Verdict.PASS, threshold=limit, estimate=1.0, lower=0.97, upper=1.03
    )
    low, high = check_domain([row])
    assert low < 0.5
    assert 1.03 <= high < 1.2
    row = make_result(
        "collapse", Verdict.FAIL, threshold=limit, estimate=0.1, lower=0.05, upper=None
    )
    assert check_domain([row]) == (0.0, 1.0)


def test_a_change_is_symmetric() -> None:
    limit = Threshold(op="abs<=", value=0.01, bound="both")
    row = make_result(
        "quality/clip", Verdict.FAIL, threshold=limit, estimate=-0.03, lower=-0.04, upper=-0.02
    )
    low, high = check_domain([row])
    assert low == -high
    assert low <= -0.04


def test_nothing_measured_still_has_an_axis() -> None:
    limit = Threshold(op="<=", value=0.0, bound="value")
    row = make_result(
        "parity/onnx", Verdict.INCONCLUSIVE, threshold=limit, estimate=None, lower=None, upper=None
    )
    low, high = check_domain([row])
    assert low < high


@pytest.mark.parametrize(("low", "high"), [(0, 160), (0.0, 0.0137), (-0.2, 3.1), (5, 5), (0, 0)])
def test_ticks_are_few_even_and_enclose(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    steps = [b - a for a, b in pairwise(ticks)]
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7
    assert max(steps) == pytest.approx(min(steps))
