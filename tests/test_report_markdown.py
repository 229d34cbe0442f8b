"""The Markdown summary."""

import re

import pytest
from gate_examples import make_report, make_result
from report_examples import make_reports, make_results

from safediff.gate.verdict import Verdict
from safediff.report.markdown import escape, render_markdown


def test_every_check_of_every_subject_has_a_row() -> None:
    text = render_markdown(make_reports())
    for result in make_results():
        assert text.count(f"\n| {result.id} | ") == 3
    assert text.startswith("## ✓ PASS · policy demo-weapons\n")
    assert "teacher met policy demo-weapons at the thresholds of plan b2b2b2b2b2b2" in text
    assert "student (for comparison, does not decide)" in text
    assert "d4" * 32 in text


def test_failures_are_explained() -> None:
    text = render_markdown([make_report(make_results(Verdict.FAIL))])
    assert text.startswith("## ✗ FAIL")
    assert "did not meet policy" in text
    assert "- **✗ FAIL** erasure/all: This check says fail." in text


def test_rows_keep_their_cells_whatever_the_names_hold() -> None:
    row = make_result("erasure/a|b\n# c <img src=x>", Verdict.FAIL, message="| *x*\n\n## y")
    text = render_markdown([make_report((row,), subject="a|b")])
    (line,) = [line for line in text.splitlines() if line.startswith("| erasure/")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 9
    assert re.search(r"(?<!\\)<", text) is None
    assert "\n## y" not in text


def test_escape() -> None:
    assert escape("a|b  <c>\n`d`") == r"a\|b \<c\> \`d\`"


def test_no_reports_are_refused() -> None:
    with pytest.raises(ValueError, match="no gate report"):
        render_markdown([])
