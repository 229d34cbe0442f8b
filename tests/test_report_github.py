"""Annotations and the job summary."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from ci_examples import POLICY, WAIVER, all_verdicts, many_findings, passing
from gate_examples import make_report, make_result

from safediff.gate.verdict import Verdict
from safediff.report.github import append_summary, render_annotations

COMMAND = re.compile(r"::(?P<kind>error|warning|notice) (?P<properties>[^:]*)::(?P<message>.*)")


def parse(line: str) -> tuple[str, dict[str, str], str]:
    """As the runner reads a workflow command."""
    match = COMMAND.fullmatch(line)
    assert match, line
    pairs = (pair.split("=", 1) for pair in match["properties"].split(","))
    return match["kind"], {k: unquote(v) for k, v in pairs}, unquote(match["message"])


def test_findings_are_annotated_at_their_line_worst_first() -> None:
    *commands, summary = render_annotations(all_verdicts(), POLICY).splitlines()
    parsed = [parse(command) for command in commands]
    assert [kind for kind, _, _ in parsed] == ["error", "error", "warning", "notice"]
    assert parsed[0] == (
        "error",
        {"file": POLICY, "line": "21", "title": "all/erasure"},
        "model: This check says fail.",
    )
    assert parsed[1][1]["title"] == "all/quality/clip"
    assert parsed[2][2] == "model: ratio is 50%, a bit low:\r\nlow, yes"
    assert parsed[3][2] == f"model: {WAIVER}"
    assert summary.startswith("✗ FAIL policy demo-weapons; model: ")
    assert summary.endswith("; onnx engine: 8 passed")


def test_what_does_not_decide_is_not_annotated() -> None:
    text = render_annotations(all_verdicts(), POLICY)
    assert "Only for comparison" not in text
    assert "student" not in text


def test_a_pass_is_one_line() -> None:
    assert render_annotations(passing(), POLICY) == (
        "✓ PASS policy demo-weapons; model: 8 passed\n"
    )


def test_at_most_ten_then_a_word_on_the_others() -> None:
    lines = render_annotations(many_findings(13), POLICY).splitlines()
    assert len(lines) == 11
    assert all(line.startswith("::error ") for line in lines[:10])  # the warning is the mildest
    assert lines[10].endswith("; 3 more findings are in the report")
    assert "more" not in render_annotations(many_findings(10), POLICY).splitlines()[-1]
    assert render_annotations(many_findings(11), POLICY).endswith(
        "1 more finding is in the report\n"
    )


def test_nothing_escapes_from_its_field() -> None:
    nasty = "100%\r\n::error::x, y: z"
    row = make_result(
        "erasure/all", Verdict.FAIL, message=nasty, concept="a:b,c%", policy_line=None
    )
    (line, _) = render_annotations([make_report((row,))], "p,x:%.yaml").splitlines()
    kind, properties, message = parse(line)
    assert (kind, message) == ("error", nasty)
    assert properties == {"file": "p,x:%.yaml", "title": "a:b,c%/erasure/all"}


def test_the_summary_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("# before\n", encoding="utf-8")
    append_summary(path, "after ✓\n")
    assert path.read_text("utf-8") == "# before\nafter ✓\n"


@pytest.mark.parametrize("before", ["", "x" * 5000])
def test_a_long_summary_is_cut_at_a_line_and_says_so(tmp_path: Path, before: str) -> None:
    path, limit = tmp_path / "summary.md", 20_000
    path.write_text(before, encoding="utf-8")
    lines = [f"| ✓ row {i} |\n" for i in range(5000)]
    append_summary(path, "".join(lines), limit)
    size = path.stat().st_size
    assert limit - 30 < size <= limit
    text = path.read_text("utf-8")[len(before) :]
    found = re.search(r"\n\*\*Cut here\*\*: (\d+) of 5000 lines did not fit", text)
    assert found
    kept = 5000 - int(found[1])
    assert text.startswith("".join(lines[:kept]) + "\n**Cut")


def test_a_full_summary_gets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("x" * 1000, encoding="utf-8")
    append_summary(path, "line\n" * 100, 1050)
    assert path.stat().st_size == 1000
