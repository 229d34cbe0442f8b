"""Waivers: a miss becomes WAIVED until its day, then a failure; nothing else changes."""

from datetime import date
from typing import Any

import pytest
from gate_examples import make_report, make_result

from safediff.gate.verdict import Verdict
from safediff.gate.waiving import apply_waivers, unwaived
from safediff.policy.plan import WaiverPlan

LAST_DAY = date(2026, 12, 31)


def waiver(**changes: Any) -> WaiverPlan:
    fields: dict[str, Any] = {
        "check": "robustness/*",
        "reason": "A new base model is being trained.",
        "owner": "safety team",
        "expires": LAST_DAY.isoformat(),
        "line": 30,
    }
    return WaiverPlan(**{**fields, **changes})


@pytest.mark.parametrize(
    ("verdict", "today", "expected"),
    [
        (Verdict.FAIL, LAST_DAY, Verdict.WAIVED),
        (Verdict.WARN, LAST_DAY, Verdict.WAIVED),
        (Verdict.FAIL, date(2027, 1, 1), Verdict.FAIL),
        (Verdict.WARN, date(2027, 1, 1), Verdict.FAIL),
        (Verdict.PASS, LAST_DAY, Verdict.PASS),
        (Verdict.PASS, date(2027, 1, 1), Verdict.PASS),
        # nobody can accept what nobody knows
        (Verdict.INCONCLUSIVE, LAST_DAY, Verdict.INCONCLUSIVE),
    ],
)
def test_what_becomes_of_each_verdict(verdict: Verdict, today: date, expected: Verdict) -> None:
    result = make_result("robustness/completion", verdict)
    (found,) = apply_waivers([result], [waiver()], today)
    assert found.verdict is expected
    if found == result:
        return
    owner, reason = "safety team", "A new base model is being trained"
    expired = f"The waiver of {owner} expired on 2026-12-31. {result.message}"
    waived = f"Waived by {owner} until 2026-12-31: {reason}. {result.message}"
    assert found.message == (expired if today > LAST_DAY else waived)
    assert found.details["waived"] == verdict.value
    assert unwaived(found).verdict is verdict
    assert unwaived(found).details == result.details


@pytest.mark.parametrize("check", ["erasure/all", "Robustness/completion", "robustness"])
def test_other_checks_are_left_alone(check: str) -> None:
    result = make_result(check, Verdict.FAIL)
    assert apply_waivers([result], [waiver()], LAST_DAY) == (result,)


@pytest.mark.parametrize("check", ["calibration/sensitivity", "base/all", "collapse"])
def test_what_everything_rests_on_is_never_waived(check: str) -> None:
    result = make_result(check, Verdict.FAIL)
    assert apply_waivers([result], [waiver(check="*")], LAST_DAY) == (result,)


def test_the_waiver_that_lasts_longest_counts() -> None:
    result = make_result("robustness/completion", Verdict.FAIL)
    long, short = waiver(), waiver(expires="2026-11-01", owner="another")
    for waivers in ([long, short], [short, long]):
        (found,) = apply_waivers([result], waivers, LAST_DAY)
        assert found.details["waiver_owner"] == "safety team"


def test_waived_checks_are_counted_apart_and_end_with_0() -> None:
    results = [make_result("erasure/all", Verdict.PASS)]
    results += apply_waivers(
        [make_result("robustness/completion", Verdict.FAIL)], [waiver()], LAST_DAY
    )
    report = make_report(tuple(results))
    assert report.counts[Verdict.WAIVED] == 1
    assert report.exit_code == 0
    late = apply_waivers([make_result("robustness/x", Verdict.FAIL)], [waiver()], date(2027, 1, 1))
    assert make_report((results[0], *late)).exit_code == 1
