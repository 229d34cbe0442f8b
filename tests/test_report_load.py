"""Reading back what a run left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ci_examples import POLICY, all_verdicts

from safediff.errors import UsageError
from safediff.gate.verdict import save_report
from safediff.report.json_report import render_json
from safediff.report.load import load_reports


def test_a_run_folder_has_what_decides_first_and_the_engine_after_the_weights(
    tmp_path: Path,
) -> None:
    model, engine, student = all_verdicts()
    first = replace(student, subject="a student")
    for report in (engine, first, model):
        save_report(report, tmp_path / f"verdict.{report.subject.replace(' ', '-')}.json")
    assert load_reports(tmp_path) == [model, engine, first]


def test_the_verdict_of_one_subject(tmp_path: Path) -> None:
    path = tmp_path / "verdict.model.json"
    save_report(all_verdicts()[0], path)
    assert load_reports(path) == [all_verdicts()[0]]


def test_a_verdict_document(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text(render_json(all_verdicts(), POLICY), encoding="utf-8")
    assert load_reports(path) == [*all_verdicts()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no verdict"),
        ("{}", "is no verdict"),
        ('{"schema_version": 7}', "schema_version 7, expected 1"),
        ('{"schema_version": 1}', "does not match its schema"),
        ("\x00", "is no JSON"),
    ],
)
def test_files_that_are_no_verdict(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_reports(path)


def test_a_verdict_that_was_changed_by_hand(tmp_path: Path) -> None:
    data = all_verdicts()[0].to_json() | {"verdict": "pass"}
    path = tmp_path / "v.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UsageError, match="says 'pass', its results say 'fail'"):
        load_reports(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nope: cannot be read \(No such file or directory\)"):
        load_reports(tmp_path / "nope")
    with pytest.raises(UsageError, match="holds no verdict"):
        load_reports(tmp_path)
