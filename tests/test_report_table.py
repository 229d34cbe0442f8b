"""The table in a terminal."""

import io

import pytest
from gate_examples import make_report, make_result
from report_examples import make_reports, make_results
from rich.console import Console

from safediff.gate.verdict import GateReport, Threshold, Verdict
from safediff.report.scales import check_domain
from safediff.report.table import render_table, strip


def show(reports: tuple[GateReport, ...], *, color: bool = False, width: int = 100) -> str:
    buffer = io.StringIO()
    Console(
        file=buffer, width=width, force_terminal=color, color_system="standard" if color else None
    ).print(render_table(reports))
    return buffer.getvalue()


def test_it_fits_in_100_columns_without_losing_a_number() -> None:
    text = show(make_reports())
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_in_80_columns_the_strip_goes_and_the_numbers_stay() -> None:
    text = show((make_report(make_results(Verdict.INCONCLUSIVE)),), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "●" not in text
    assert "? INCONCLUSIVE" in text
    assert "  CLIP-like score " in text
    assert "\n  change " in text
    wide = show((make_report(make_results(Verdict.INCONCLUSIVE)),))
    assert "●" in wide
    numbers = [[word for word in t.split() if word[0].isdigit()] for t in (text, wide)]
    assert numbers[0] == numbers[1]


def test_every_subject_check_and_verdict_is_there_in_words() -> None:
    text = show((make_report(make_results(Verdict.FAIL)), *make_reports()[1:]))
    for name in ("teacher", "student", "onnx engine"):
        assert f"\n{name}  " in f"\n{text}"
    for name in ("Judge sensitivity", "Kept prompts", "Neighbours", "CLIP-like score change"):
        assert text.count(f"  {name} ") == 3
    assert "✗ FAIL erasure/all" in text
    assert "This check says fail." in text
    assert "✗ FAIL  policy demo-weapons" in text
    assert "teacher did not meet policy demo-weapons" in text
    assert "onnx engine met policy demo-weapons" in text


def test_colour_adds_nothing_but_colour() -> None:
    plain = show(make_reports())
    assert "\x1b[" not in plain
    assert "\x1b[" in show(make_reports(), color=True)


def test_names_are_not_markup() -> None:
    row = make_result("erasure/[red]axe[/]", Verdict.FAIL, message="[bold]no[/nothing]")
    text = show((make_report((row,), subject="[blink]x"),))
    assert "[red]axe[/]" in text
    assert "[bold]no[/nothing]" in text
    assert "[blink]x" in text


def test_the_strip_puts_the_deciding_bound_on_its_side_of_the_limit() -> None:
    passed = make_result("erasure/all", Verdict.PASS)
    failed = make_result("erasure/all", Verdict.FAIL, upper=0.09)
    good, bad = (strip(r, check_domain([r])) for r in (passed, failed))
    assert good.index("●") < good.index("┫") < good.index("╎")
    assert bad.index("╎") < bad.index("┫")
    lower = Threshold(op=">=", value=0.8, bound="lower")
    kept = make_result(
        "retention/x", Verdict.PASS, threshold=lower, estimate=0.95, lower=0.88, upper=1.0
    )
    text = strip(kept, check_domain([kept]))
    assert text.index("╎") < text.index("┣") < text.index("●")


def test_the_strip_of_nothing_is_dotted() -> None:
    row = make_result("erasure/all", Verdict.INCONCLUSIVE, estimate=None, lower=None, upper=None)
    assert set(strip(row, (0.0, 1.0))) == {"·"}


def test_no_reports_are_refused() -> None:
    with pytest.raises(ValueError, match="no gate report"):
        render_table([])
