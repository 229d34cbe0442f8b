"""Two runs in a terminal."""

import io
from dataclasses import replace

from ci_examples import all_verdicts, passing
from gate_examples import make_report, make_result
from rich.console import Console

from safediff.gate.comparing import compare
from safediff.gate.verdict import GateReport, Verdict
from safediff.report.comparison import render_comparison


def show(before: tuple[GateReport, ...], after: tuple[GateReport, ...]) -> str:
    buffer = io.StringIO()
    comparison = render_comparison(compare(before, after))
    Console(file=buffer, width=80, highlight=False).print(comparison)
    return buffer.getvalue()


def worse() -> tuple[GateReport, ...]:
    (report,) = passing()
    row = make_result("erasure/all", Verdict.FAIL, estimate=0.2, lower=0.15, upper=0.26)
    results = tuple(row if r.id == row.id else r for r in report.results)
    return (replace(report, results=results),)


def test_it_fits_in_80_columns_without_losing_a_number() -> None:
    text = show(passing(), worse())
    assert max(map(len, text.splitlines())) <= 80
    assert "0.002…0.034" in text
    assert "calibration/sensitivity" in text


def test_a_regression_is_said() -> None:
    text = show(passing(), worse())
    (line,) = [line for line in text.splitlines() if line.startswith("erasure/all")]
    assert line.split() == ["erasure/all", "✓", "0.012", "✗", "0.200", "+0.188", "<0.001", "worse"]
    assert "7 checks tested: 1 worse, 0 better, 6 within noise." in text
    assert "MOVER" in text
    assert "Holm" in text
    back = show(worse(), passing())
    assert "0 worse, 1 better" in back
    assert "-0.188" in back


def test_the_same_run_twice() -> None:
    text = show(all_verdicts(), all_verdicts())
    assert "0 worse, 0 better" in text
    assert "differ" not in text
    assert "\nmodel  policy" in f"\n{text}"
    assert "\nonnx engine  policy" in text
    assert "student" not in text


def test_what_else_differs_is_said() -> None:
    old = make_report(passing()[0].results, subject="teacher", plan_sha256="9" * 64)
    new = make_report(passing()[0].results, subject="model", policy_name="other")
    text = show((old,), (new,))
    assert "teacher → model" in text
    assert "the policies differ: demo-weapons → other" in text
    assert "the plans differ: 999999999999 → b2b2b2b2b2b2" in text
    assert "judges" not in text


def test_checks_of_one_side_only() -> None:
    row = make_result("quality/fid", Verdict.PASS, estimate=1.0, lower=1.0, upper=1.0)
    text = show(passing(), (make_report((row,), subject="model"),))
    (line,) = [line for line in text.splitlines() if line.startswith("quality/fid")]
    assert line.split() == ["quality/fid", "—", "✓", "1.000", "—", "—", "only", "B"]
    assert "0 checks tested" in text
