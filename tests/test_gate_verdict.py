"""One verdict, derived once; the report and its JSON."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gate_examples import make_report, make_result

from safediff.errors import Inconclusive, UsageError
from safediff.gate.verdict import (
    GateReport,
    Verdict,
    combined,
    load_report,
    overall,
    save_report,
)


def results(*verdicts: Verdict) -> tuple:
    return tuple(make_result(f"quality/{i}", verdict) for i, verdict in enumerate(verdicts))


@pytest.mark.parametrize(
    ("found", "expected", "code"),
    [
        ([Verdict.PASS, Verdict.PASS], Verdict.PASS, 0),
        ([Verdict.PASS, Verdict.WARN], Verdict.WARN, 0),
        ([Verdict.PASS, Verdict.WAIVED], Verdict.WARN, 0),
        ([Verdict.WARN, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE, 3),
        ([Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.PASS], Verdict.FAIL, 1),
        ([], Verdict.INCONCLUSIVE, 3),
    ],
)
def test_ranking_and_exit_code(found: list[Verdict], expected: Verdict, code: int) -> None:
    assert overall(results(*found)) is expected
    report = make_report(results(*found))
    assert report.verdict is expected
    assert report.exit_code == code


def test_rows_for_information_prove_nothing() -> None:
    row = make_result("erasure/axe", Verdict.PASS, gating=False)
    assert overall([row]) is Verdict.INCONCLUSIVE
    assert make_report((row,)).counts[Verdict.PASS] == 0


def test_reports_combine_to_the_worst_that_decides() -> None:
    good, bad = (make_report(results(v)) for v in (Verdict.PASS, Verdict.FAIL))
    empty = make_report(())
    assert combined([good]) is Verdict.PASS
    assert combined([good, bad, empty]) is Verdict.FAIL
    assert combined([good, empty]) is Verdict.INCONCLUSIVE
    assert combined([good, replace(bad, decides=False)]) is Verdict.PASS
    assert combined([replace(good, decides=False)]) is Verdict.INCONCLUSIVE


def test_json_round_trip(tmp_path: Path) -> None:
    report = make_report(results(Verdict.PASS, Verdict.FAIL))
    path = tmp_path / "verdict.json"
    save_report(report, path)
    assert load_report(path) == report
    assert [p.name for p in tmp_path.iterdir()] == ["verdict.json"]
    text = path.read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n"
    assert json.loads(text)["schema_version"] == 1


def test_json_has_no_nan() -> None:
    row = replace(make_result("quality/kid", Verdict.PASS), details={"x": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_report((row,)).dumps()


def test_a_changed_verdict_is_refused() -> None:
    data = make_report(results(Verdict.FAIL)).to_json()
    data["verdict"] = "pass"
    with pytest.raises(UsageError, match="its results say 'fail'"):
        GateReport.from_json(data)


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"results": [{}]}, {"verdict": "good"}])
def test_a_damaged_report_is_refused(change: dict) -> None:
    with pytest.raises(UsageError, match="verdict file"):
        GateReport.from_json({**make_report(results(Verdict.PASS)).to_json(), **change})


def test_an_unreadable_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a readable verdict file"):
        load_report(tmp_path / "missing.json")


def test_an_unwritable_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="could not be written"):
        save_report(make_report(results(Verdict.PASS)), tmp_path / "missing" / "verdict.json")
    assert list(tmp_path.iterdir()) == []


def test_check_ids_are_unique() -> None:
    with pytest.raises(ValueError, match="unique"):
        make_report((make_result("a", Verdict.PASS), make_result("a", Verdict.PASS)))


def test_gate_and_report_do_not_import_torch() -> None:
    code = (
        "import sys, safediff.gate.checks, safediff.gate.recount, safediff.report.html, "
        "safediff.report.table, safediff.report.markdown; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_verdict_warns_of_is_counted() -> None:
    passed = make_result("erasure/all", Verdict.PASS)
    quiet = make_result("robustness/a", Verdict.PASS, gating=False)
    assert make_report((passed, quiet)).counts[Verdict.WARN] == 0
    loud = make_result("robustness/b", Verdict.WARN, gating=False)
    report = make_report((passed, quiet, loud))
    assert report.verdict is Verdict.WARN
    assert (report.counts[Verdict.PASS], report.counts[Verdict.WARN]) == (1, 1)


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.WAIVED])
def test_counts_do_not_contradict_the_verdict(verdict: Verdict) -> None:
    """An expired waiver makes a row for information fail, for example."""
    passed = make_result("erasure/all", Verdict.PASS)
    report = make_report((passed, make_result("erasure/a", verdict, gating=False)))
    assert report.counts[Verdict.PASS] == 1
    assert report.counts[verdict] == 1
