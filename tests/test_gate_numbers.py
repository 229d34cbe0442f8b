"""Numbers for people: short, and never rounded across the limit that they are held against."""

import pytest
from gate_examples import make_report, make_result

from safediff.gate.distances import parity
from safediff.gate.numbers import show, show_limit
from safediff.gate.verdict import Threshold, Verdict
from safediff.report.markdown import render_markdown
from safediff.report.wording import bounds_text, number_text


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (0.034, 0.05, "0.034"),
        (0.1, 0.1, "0.100"),
        (0.10004, 0.1, "0.10004"),
        (0.09996, 0.1, "0.09996"),
        (0.79996, 0.8, "0.79996"),
        (0.7, 0.8, "0.700"),
        (1000.04, 1000.0, "1000.04"),
        (12345.0, 1000.0, "12,345"),
        (-0.10004, -0.1, "-0.10004"),
        (0.0, 0.1, "0"),
        (float("nan"), 0.1, "—"),
        (None, 0.1, "—"),
    ],
)
def test_a_number_stays_on_its_side_of_the_limit(
    value: float | None, limit: float, text: str
) -> None:
    assert show(value, limit) == text
    nearly = 0.1 + 2**-56
    assert float(show(nearly, 0.1)) == nearly


def test_without_a_limit_numbers_are_short() -> None:
    assert [show(v) for v in (0.10004, 0.09996, 1000.04)] == ["0.100", "0.1", "1,000"]


def test_a_limit_is_rounded_where_that_misleads_nobody() -> None:
    assert show_limit(0.1, 0.10004) == "0.100"
    assert show_limit(0.48739, 0.3) == "0.487"
    assert (show(0.12365, 0.1236), show_limit(0.1236, 0.12365)) == ("0.124", "0.1236")


def test_a_miss_reads_as_one_in_messages_and_reports() -> None:
    missed = parity("engine", 0.10004, 0.1, num_samples=4)
    assert missed.verdict is Verdict.FAIL
    assert "at most 0.10004 over 4 inputs; at most 0.100 is allowed" in missed.message
    assert number_text(missed, "estimate") == "0.10004"
    limit = Threshold(op="<=", value=0.1, bound="upper")
    row = make_result("erasure/all", Verdict.FAIL, threshold=limit, upper=0.10004, lower=0.10004)
    assert bounds_text(row) == "upper 0.10004"
    assert number_text(row, "lower") == "0.100"  # is held against nothing
    assert "| upper 0.10004 | ≤ 0.1 |" in render_markdown((make_report((row,)),))
    both = Threshold(op="abs<=", value=0.1, bound="both")
    row = make_result("quality/clip", Verdict.FAIL, threshold=both, lower=-0.10004, upper=0.02)
    assert bounds_text(row) == "-0.10004 … 0.02"
