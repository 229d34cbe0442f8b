"""``safediff diff``, ``safediff explain`` and ``safediff schema`` in processes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ci_examples import all_verdicts, passing
from small_policy import safediff

from safediff.gate.verdict import save_report
from safediff.policy.schema import policy_schema
from safediff.report.json_report import render_json
from safediff.report.verdict_schema import verdict_schema


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run folder, and the verdict document of a worse one."""
    (tmp_path / "a").mkdir()
    (report,) = passing()
    save_report(report, tmp_path / "a" / "verdict.model.json")
    rows = tuple(
        replace(r, estimate=0.4, lower=0.3, upper=0.5) if r.id == "erasure/all" else r
        for r in all_verdicts()[0].results
    )
    worse = replace(report, results=rows)
    (tmp_path / "b.json").write_text(render_json([worse], "p.yaml"), encoding="utf-8")
    return tmp_path / "a", tmp_path / "b.json"


def test_a_change_for_the_worse_ends_with_0(runs: tuple[Path, Path]) -> None:
    done = safediff("diff", *runs, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 worse, 0 better" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nope", "nope: cannot be read (No such file or directory)"),
        ("empty", "empty: holds no verdict"),
        ("text.json", "text.json: is no JSON"),
        (
            "student.json",
            "the runs have no subject in common: A measured model; B measured nothing",
        ),
    ],
)
def test_what_is_no_run_ends_with_2(
    runs: tuple[Path, Path], tmp_path: Path, name: str, line: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("text", encoding="utf-8")
    save_report(all_verdicts()[2], tmp_path / "student.json")
    done = safediff("diff", runs[0], name, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert done.stdout == ""
    assert "  next: give " in done.stderr or "  next: run " in done.stderr


def test_report_reads_verdict_files_as_well(runs: tuple[Path, Path]) -> None:
    done = safediff("report", runs[1], COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, "")
    assert "✗ FAIL  policy demo-weapons" in done.stdout
    assert "report.html" not in done.stdout


def test_explain() -> None:
    done = safediff("explain", "bomb/erasure", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("erasure  Are the concepts gone?\n")
    assert "How it can be fooled" in done.stdout
    listed = safediff("explain", COLUMNS="80")
    assert listed.returncode == 0
    assert "quality/kid " in listed.stdout
    unknown = safediff("explain", "erasur")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == (
        "error: no check 'erasur'; did you mean 'erasure'?\n  next: safediff explain lists them\n"
    )


def test_schemas() -> None:
    assert json.loads(safediff("schema").stdout) == policy_schema()
    assert json.loads(safediff("schema", "--verdict").stdout) == verdict_schema()
