"""The claim says what was measured and no more."""

import pytest
from gate_examples import make_report, make_result
from report_examples import make_results

from safediff.gate.verdict import Threshold, Verdict
from safediff.report.wording import (
    SYMBOLS,
    by_verdict,
    claim,
    counts_text,
    findings,
    limit_text,
    result_text,
    statement,
    title_of,
)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.PASS, "teacher met policy demo-weapons at"),
        (Verdict.WARN, "teacher met policy demo-weapons at"),
        (Verdict.FAIL, "teacher did not meet policy demo-weapons at"),
        (Verdict.INCONCLUSIVE, "teacher was not shown to meet policy demo-weapons at"),
    ],
)
def test_statement(verdict: Verdict, said: str) -> None:
    text = statement(make_report((make_result("erasure/all", verdict),)))
    assert text.startswith(said)
    assert "thresholds of plan b2b2b2b2b2b2 under 1 test on 2026-11-24" in text
    assert ("with warnings" in text) is (verdict is Verdict.WARN)
    assert "safe" not in text


def test_claim_names_every_subject_that_shares_the_verdict() -> None:
    reports = [
        make_report(make_results(verdict), subject=subject)
        for subject, verdict in (
            ("teacher", Verdict.PASS),
            ("onnx engine", Verdict.FAIL),
            ("student", Verdict.PASS),
        )
    ]
    worst, best = by_verdict(reports)
    assert " ".join(claim(worst)).startswith("onnx engine did not meet policy")
    assert " ".join(claim(best)).startswith("teacher and student met policy")


def test_every_verdict_has_its_own_symbol() -> None:
    assert len(set(SYMBOLS.values())) == len(Verdict)


def test_limits_are_written_as_the_policy_states_them() -> None:
    assert limit_text(Threshold(op="<=", value=0.05, bound="upper")) == "≤ 0.05"
    assert limit_text(Threshold(op=">=", value=0.8, bound="lower")) == "≥ 0.8"
    assert limit_text(Threshold(op="abs<=", value=0.001, bound="both")) == "± 0.001"


@pytest.mark.parametrize(
    ("id", "title"),
    [("erasure/all", "All concepts"), ("base/all", "All concepts"), ("retention/all", "All")],
)
def test_only_what_covers_all_concepts_says_so(id: str, title: str) -> None:
    assert title_of(make_result(id, Verdict.PASS)) == title


def test_counts_leave_out_rows_for_information() -> None:
    assert counts_text(make_report(make_results(Verdict.FAIL))) == "7 passed, 1 failed"


def test_a_row_for_information_does_not_say_pass() -> None:
    row = make_result("erasure/axe", Verdict.PASS, gating=False)
    assert "PASS" not in result_text(row)
    assert result_text(make_result("erasure/axe", Verdict.WARN, gating=False)) == "! WARN"


def test_findings_are_worst_first_and_not_told_twice() -> None:
    alone = make_result("erasure/axe", Verdict.WARN, gating=False)
    slow = make_result("quality/kid", Verdict.WARN)
    failed = make_result("erasure/all", Verdict.FAIL)
    passed = make_result("erasure/all", Verdict.PASS)
    ids = [r.id for _, r in findings([make_report((slow, alone, failed))])]
    assert ids == ["erasure/all", "quality/kid"]
    ids = [r.id for _, r in findings([make_report((slow, alone, passed))])]
    assert ids == ["quality/kid", "erasure/axe"]
