"""Regressions against a baseline: which test, in which direction, and what is none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_examples import make_report, make_result

from safediff.gate.baseline import (
    Baseline,
    Comparison,
    Conditions,
    Measured,
    baseline_check,
    compare_with,
)
from safediff.gate.keeping import retention
from safediff.gate.verdict import CheckResult, Threshold, Verdict
from safediff.policy.plan import RetentionCheck

ERASURE, RETENTION, KID = "erasure/all", "retention/near", "quality/kid"
N = 60


def results(**changes: Any) -> tuple[CheckResult, ...]:
    at_least = Threshold(op=">=", value=0.8, bound="lower")
    rows = {
        ERASURE: make_result(ERASURE, Verdict.PASS, details={"images_per_prompt": 1}),
        RETENTION: make_result(RETENTION, Verdict.PASS, threshold=at_least, details={}),
        KID: make_result(KID, Verdict.PASS, estimate=0.01, lower=0.008, upper=0.012),
    }
    return tuple(replace(row, **changes.get(name, {})) for name, row in rows.items())


def verification(
    num_erased_hits: int,
    num_right: int,
    *,
    first: int = 0,
    prompts: str = "p",
    rows: tuple[CheckResult, ...] = results(),
    subject: str = "model",
    **conditions: Any,
) -> Baseline:
    """Hits stand on the prompts from ``first`` on, right pictures on the first ones."""
    hits = {
        ERASURE: {f"{prompts}{i}": int(first <= i < first + num_erased_hits) for i in range(N)},
        RETENTION: {f"{prompts}{i}": int(i < num_right) for i in range(N)},
    }
    fields = {
        "sampling": {"seed": 0},
        "judges": {"embedded": "a" * 64},
        "thresholds": {"embedded": 0.5},
        "judge_settings": {},
        "base_sha256": "b" * 64,
    }
    report = make_report(rows, subject=subject)
    return Baseline(
        conditions=Conditions(**{**fields, **conditions}),
        subjects=(Measured(report=report, hits=hits),),
    )


def by_id(known: Baseline, now: Baseline) -> dict[str, Comparison]:
    return {row.id: row for row in compare_with(known, now)}


def check(known: Baseline, now: Baseline) -> CheckResult:
    found = baseline_check(known, now, "model")
    assert found is not None
    return found


def test_the_same_is_no_regression() -> None:
    same = verification(2, 55)
    rows = by_id(same, same)
    assert [rows[name].how for name in (ERASURE, RETENTION, KID)] == [
        "paired", "paired", "intervals"
    ]  # fmt: skip
    assert not any(row.regressed for row in rows.values())
    assert check(same, same).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (verification(12, 55, first=0), ERASURE),
        (verification(0, 40), RETENTION),
    ],
)
def test_worse_beyond_noise_is_a_failure_and_better_never_is(now: Baseline, worse: str) -> None:
    known = verification(0, 55)
    rows = by_id(known, now)
    assert [name for name, row in rows.items() if row.regressed] == [worse]
    found = check(known, now)
    assert found.verdict is Verdict.FAIL
    assert f"Worse than the baseline: {worse} (paired, " in found.message
    back = by_id(now, known)
    assert not any(row.regressed for row in back.values())


def test_pairs_see_what_two_proportions_cannot() -> None:
    # 9 prompts became bad and none good: exact one-sided 2^-9, times 3 tests
    known, now = verification(10, 60), verification(19, 60)
    paired = by_id(known, now)[ERASURE]
    assert (paired.how, paired.worse, paired.better) == ("paired", 9, 0)
    assert paired.p_value == pytest.approx(3 * 2**-9)
    assert paired.regressed
    for other in (
        verification(19, 60, prompts="q"),
        verification(19, 60, sampling={"seed": 1}),
    ):
        row = by_id(known, other)[ERASURE]
        assert (row.how, row.worse, row.better) == ("two proportions", 19, 10)
        assert not row.regressed


def test_a_kept_prompt_is_bad_once_one_of_its_pictures_is_wrong() -> None:
    """Four pictures a prompt, all right: now one of them is."""
    planned = RetentionCheck(
        name="near", min_ratio=0.8, confidence=0.95, num_prompts=N, prompts=(), line=9
    )
    measured = []
    for num_right in (4, 1):
        right = np.arange(4) < np.full((N, 1), num_right)
        row = retention(planned, np.ones((N, 4), dtype=np.bool_), right)
        before = verification(0, N, rows=(row,))
        hits = {RETENTION: {f"p{i}": num_right for i in range(N)}}
        measured.append(replace(before, subjects=(replace(before.subjects[0], hits=hits),)))
    found = by_id(*measured)[RETENTION]
    assert (found.worse, found.better, found.regressed) == (N, 0, True)


def test_changes_in_both_directions_cancel() -> None:
    row = by_id(verification(12, 60), verification(12, 60, first=20))[ERASURE]
    assert (row.worse, row.better) == (12, 12)
    assert not row.regressed


def test_holm_over_all_checks() -> None:
    # 5 of 5 changed prompts: 0.031 alone, 0.094 among three tests
    row = by_id(verification(0, 60), verification(5, 60))[ERASURE]
    assert row.p_value == pytest.approx(3 / 32)
    assert not row.regressed


def test_means_are_compared_by_their_intervals() -> None:
    far = results(**{KID: {"estimate": 0.03, "lower": 0.028, "upper": 0.032}})
    known, now = verification(0, 60), verification(0, 60, rows=far)
    assert by_id(known, now)[KID].regressed
    assert not by_id(now, known)[KID].regressed
    exact = results(**{KID: {"lower": 0.01, "upper": 0.01}})
    row = by_id(verification(0, 60, rows=exact), now)[KID]
    assert (row.how, row.p_value) == ("not tested", None)


def test_a_change_as_far_on_the_other_side_is_no_regression() -> None:
    def changed(estimate: float) -> Baseline:
        both = Threshold(op="abs<=", value=0.05, bound="both")
        numbers = {"estimate": estimate, "lower": estimate - 0.003, "upper": estimate + 0.003}
        return verification(0, 60, rows=results(**{KID: {"threshold": both, **numbers}}))

    known = changed(-0.010)
    assert not by_id(known, changed(0.012))[KID].regressed
    assert not by_id(changed(0.012), known)[KID].regressed
    assert by_id(known, changed(0.030))[KID].regressed
    assert not by_id(changed(0.030), known)[KID].regressed


def test_a_check_that_is_gone_is_a_regression() -> None:
    now = verification(0, 60, rows=results()[:2])
    found = check(verification(0, 60), now)
    assert found.verdict is Verdict.FAIL
    assert "quality/kid is not measured any more" in found.message
    more = check(now, verification(0, 60))
    assert more.verdict is Verdict.PASS


def test_a_subject_that_is_gone_is_a_regression() -> None:
    engine = verification(0, 60, subject="onnx engine").subjects
    now = verification(0, 60)
    both = replace(now, subjects=(*now.subjects, *engine))
    found = check(both, now)
    assert found.verdict is Verdict.FAIL
    assert found.message == "Worse than the baseline: onnx engine is not measured any more."
    assert found.details[ERASURE] == "paired, p 1"
    assert found.details[f"onnx engine: {ERASURE}"] == "not measured any more, p –"  # noqa: RUF001
    gone = [row.id for row in compare_with(both, now) if row.subject == "onnx engine"]
    assert gone == [ERASURE, RETENTION, KID]
    assert check(now, both).verdict is Verdict.PASS


def test_only_the_first_subject_tells_of_one_that_is_gone() -> None:
    models = [verification(0, 60, subject=name).subjects[0] for name in ("model", "onnx", "trt")]
    known = replace(verification(0, 60), subjects=tuple(models))
    now = replace(known, subjects=tuple(models[:2]))
    rows = [baseline_check(known, now, name) for name in ("model", "onnx")]
    assert [row.verdict for row in rows if row] == [Verdict.FAIL, Verdict.PASS]


def test_what_is_gone_is_no_regression_where_nothing_can_be_compared() -> None:
    engine = verification(0, 60, subject="onnx engine").subjects
    known = verification(0, 60)
    both = replace(known, subjects=(*known.subjects, *engine))
    found = check(both, verification(0, 60, thresholds={"embedded": 0.9}))
    assert found.verdict is Verdict.INCONCLUSIVE


def test_another_judge_is_inconclusive() -> None:
    for changed in (
        {"judges": {"embedded": "c" * 64}},
        {"thresholds": {"embedded": 0.9}},
        {"judge_settings": {"nudenet": {"rule": "i2p"}}},
    ):
        found = check(verification(0, 60), verification(0, 60, **changed))
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "nothing can be compared" in found.message


def test_a_subject_that_the_baseline_lacks_has_no_row() -> None:
    assert baseline_check(verification(0, 60), verification(0, 60), "onnx engine") is None
