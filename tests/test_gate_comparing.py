"""Changes between two runs: direction, noise, and the level of the test, by enumeration."""

import functools
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from gate_examples import make_report, make_result
from numpy.typing import NDArray
from scipy.stats import binom

from safediff.errors import UsageError
from safediff.gate.comparing import LEVEL, Change, compare, holm, p_value
from safediff.gate.stats import rate
from safediff.gate.verdict import CheckResult, GateReport, Threshold, Verdict

RATIO = Threshold(op=">=", value=0.8, bound="lower")
CHANGE = Threshold(op="abs<=", value=0.01, bound="both")


def rate_of(hits: int, num_samples: int, id: str = "erasure/all", **changes: Any) -> CheckResult:
    found = rate(hits, num_samples, 0.95)
    return make_result(
        id,
        Verdict.PASS,
        estimate=found.value,
        lower=found.lower,
        upper=found.upper,
        num_samples=num_samples,
        **changes,
    )


def changes(before: list[CheckResult], after: list[CheckResult]) -> dict[str, Change]:
    (found,) = compare([make_report(tuple(before))], [make_report(tuple(after))])
    return {change.id: change for change in found.changes}


@functools.cache
def alarms_of(num_before: int, num_after: int) -> NDArray[np.float64]:
    """1 where the test sees a change, for every pair of hits."""
    outcomes = [[rate_of(hits, n) for hits in range(n + 1)] for n in (num_before, num_after)]
    return np.array(
        [[float((p_value(a, b) or 0) <= LEVEL) for b in outcomes[1]] for a in outcomes[0]]
    )


@pytest.mark.parametrize("true_rate", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("sizes", [(30, 30), (40, 80)])
def test_false_alarms_are_at_most_the_level(true_rate: float, sizes: tuple[int, int]) -> None:
    """All pairs of outcomes, weighted by how often equal models give them."""
    alarms = alarms_of(*sizes)
    weights = [binom.pmf(range(n + 1), n, true_rate) for n in sizes]
    assert float(weights[0] @ alarms @ weights[1]) <= LEVEL
    assert alarms[0, -1] == alarms[-1, 0] == 1.0  # none against all is seen


def test_a_change_is_the_same_in_both_directions() -> None:
    a, b = rate_of(1, 60), rate_of(9, 60)
    assert p_value(a, b) == pytest.approx(p_value(b, a))
    assert (p_value(a, b) or 0) < LEVEL < (p_value(a, rate_of(3, 60)) or 0)


def test_a_size_keeps_the_ends_of_its_interval() -> None:
    """Mirrored, the end that faced away faces the other run."""
    one, other = (
        make_result(
            "quality/clip", Verdict.PASS, threshold=CHANGE, estimate=value, lower=lower, upper=upper
        )
        for value, lower, upper in ((-0.10, -0.12, -0.09), (0.20, 0.19, 0.25))
    )
    mirrored = replace(one, estimate=0.10, lower=0.09, upper=0.12)
    assert p_value(one, other) == p_value(mirrored, other)
    assert p_value(other, one) == p_value(other, mirrored)
    open_ended = replace(one, lower=None)
    assert p_value(open_ended, other) == 1.0


def test_more_samples_make_the_same_change_clearer() -> None:
    assert (p_value(rate_of(2, 40), rate_of(8, 40)) or 0) > (
        p_value(rate_of(8, 160), rate_of(32, 160)) or 0
    )


@pytest.mark.parametrize(
    ("threshold", "before", "after", "says"),
    [
        (Threshold(op="<=", value=0.1, bound="upper"), 0.1, 0.5, "worse"),
        (Threshold(op="<=", value=0.1, bound="upper"), 0.5, 0.1, "better"),
        (RATIO, 0.5, 0.9, "better"),
        (RATIO, 0.9, 0.5, "worse"),
        (CHANGE, 0.1, -0.3, "worse"),
        (CHANGE, -0.3, 0.1, "better"),
        (CHANGE, -0.3, 0.32, "within noise"),
        (CHANGE, 0.32, -0.3, "within noise"),
        (RATIO, 0.9, 0.88, "within noise"),
    ],
)
def test_what_is_better_depends_on_the_limit(
    threshold: Threshold, before: float, after: float, says: str
) -> None:
    old, new = (
        make_result(
            "retention/x",
            Verdict.PASS,
            threshold=threshold,
            estimate=value,
            lower=value - 0.05,
            upper=value + 0.05,
        )
        for value in (before, after)
    )
    change = changes([old], [new])["retention/x"]
    assert change.says == says
    assert change.difference == pytest.approx(after - before)


def test_what_has_no_interval_or_is_for_information_is_not_tested() -> None:
    value = make_result("quality/fid", Verdict.PASS, estimate=1.0, lower=1.0, upper=1.0)
    more = replace(value, estimate=9.0, lower=9.0, upper=9.0)
    info = rate_of(0, 60, "erasure/axe", gating=False)
    found = changes([value, info], [more, rate_of(60, 60, "erasure/axe", gating=False)])
    assert [change.says for change in found.values()] == ["not tested", "not tested"]
    assert found["quality/fid"].difference == 8.0


def test_what_is_missing_on_one_side() -> None:
    unknown = replace(rate_of(0, 60), estimate=None, lower=None, upper=None)
    found = changes(
        [rate_of(0, 60, "erasure/a"), rate_of(0, 60)], [unknown, rate_of(0, 60, "erasure/b")]
    )
    assert {id: change.says for id, change in found.items()} == {
        "erasure/a": "only in A",
        "erasure/all": "not tested",
        "erasure/b": "only in B",
    }


def test_an_infinite_bound_hides_any_change() -> None:
    open_ended = replace(rate_of(30, 60), upper=None)
    assert p_value(open_ended, rate_of(60, 60)) == p_value(rate_of(60, 60), open_ended) == 1.0
    assert (p_value(open_ended, rate_of(0, 60)) or inf) < LEVEL  # the bound on that side is known


def test_holm() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_the_adjustment_is_over_all_subjects_and_checks() -> None:
    a, b = rate_of(2, 60), rate_of(12, 60)
    alone = changes([a], [b])["erasure/all"].p_value
    pair = [make_report((a,), subject=s) for s in ("model", "onnx engine")]
    other = [make_report((b,), subject=s) for s in ("model", "onnx engine")]
    together = [c.changes[0].p_value for c in compare(pair, other)]
    assert alone is not None
    assert together == pytest.approx([2 * alone, 2 * alone])


def test_subjects_are_matched_by_name_then_weights_and_engines() -> None:
    rows = (rate_of(0, 60),)
    onnx, trt = (
        make_report(rows, subject=s, model_sha256={"engine": "f0" * 32}) for s in ("onnx", "trt")
    )
    teacher, model = (make_report(rows, subject=s) for s in ("teacher", "model"))
    student = make_report(rows, subject="student", decides=False)

    def names(before: list[GateReport], after: list[GateReport]) -> list[tuple[str, str]]:
        return [(c.before.subject, c.after.subject) for c in compare(before, after)]

    assert names([teacher, onnx, student], [onnx, model]) == [
        ("onnx", "onnx"),
        ("teacher", "model"),
    ]
    assert names([teacher, onnx], [model]) == [("teacher", "model")]
    assert names([teacher, onnx], [model, trt]) == [("teacher", "model"), ("onnx", "trt")]
    with pytest.raises(UsageError, match="A measured teacher; B measured onnx"):
        compare([teacher, student], [onnx])
    with pytest.raises(UsageError, match="A measured onnx, trt; B measured model"):
        compare([onnx, trt], [model])
