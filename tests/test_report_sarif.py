"""SARIF, against the official schema (see tests/data) and against what GitHub makes of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ci_examples import POLICY, WAIVER, all_verdicts, passing
from gate_examples import make_report, make_result

from safediff.gate.verdict import GateReport, Verdict
from safediff.report.sarif import render_sarif

DATA = Path(__file__).parent / "data"
SCHEMA = json.loads((DATA / "sarif-2.1.0.json").read_text("utf-8"))


def run_of(reports: tuple[GateReport, ...] | list[GateReport]) -> dict[str, Any]:
    (run,) = json.loads(render_sarif(reports, POLICY))["runs"]
    return dict(run)


def validate(log: Any) -> None:
    kind = jsonschema.Draft4Validator
    jsonschema.validate(log, SCHEMA, kind, format_checker=kind.FORMAT_CHECKER)


@pytest.mark.parametrize("reports", [all_verdicts(), passing()])
def test_it_follows_the_schema(reports: tuple[GateReport, ...]) -> None:
    validate(json.loads(render_sarif(reports, POLICY)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0].pop("message"),
        lambda run: run["results"][0].update(verdict="fail"),
        lambda run: run["invocations"][0].pop("executionSuccessful"),
        lambda run: run["results"][0]["locations"][0]["physicalLocation"]["region"].clear(),
    ],
)
def test_the_schema_is_held_against_it(spoil: Any) -> None:
    log = json.loads(render_sarif(all_verdicts(), POLICY))
    spoil(log["runs"][0])
    with pytest.raises(jsonschema.ValidationError):
        validate(log)


def test_results_are_what_should_be_an_alert() -> None:
    run = run_of(all_verdicts())
    found = {r["ruleId"]: r for r in run["results"]}
    assert list(found) == [  # worst first
        "all/erasure",
        "all/retention/neighbours",
        "all/retention/everything-else",
    ]
    failed = found["all/erasure"]
    assert failed["level"] == "error"
    assert failed["message"]["text"] == "model: This check says fail."
    assert failed["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "policies/my%20demo.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 21},
    }
    numbers = {name: failed["properties"][name] for name in ("estimate", "lower", "upper", "n")}
    assert numbers == {"estimate": 0.012, "lower": 0.002, "upper": 0.034, "n": 240}
    assert failed["properties"]["interval"] == "Clopper-Pearson, one-sided"
    assert failed["properties"]["threshold"] == "upper ≤ 0.05"
    assert "suppressions" not in failed
    (suppression,) = found["all/retention/everything-else"]["suppressions"]
    assert suppression == {"kind": "external", "status": "accepted", "justification": WAIVER}
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_what_could_not_be_decided_is_no_result() -> None:
    run = run_of(all_verdicts())
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    (told,) = invocation["toolExecutionNotifications"]
    assert told["associatedRule"] == {"id": "all/quality/clip"}
    assert told["message"]["text"] == "model: clip could not be measured."
    assert "all/quality/clip" not in {r["ruleId"] for r in run["results"]}


def test_a_pass_has_no_result_and_was_successful() -> None:
    run = run_of(passing())
    assert run["results"] == []
    assert run["invocations"][0]["executionSuccessful"] is True
    assert run["invocations"][0]["toolExecutionNotifications"] == []
    assert run["properties"]["verdict"] == "pass"
    assert run["invocations"][0]["startTimeUtc"] == "2026-11-24T09:00:00Z"


def test_every_check_has_a_rule_that_explains_it() -> None:
    rules = {rule["id"]: rule for rule in run_of(passing())["tool"]["driver"]["rules"]}
    assert "all/parity/onnx" in rules
    assert rules["all/quality/clip"]["shortDescription"]["text"].startswith("Do kept pictures")
    assert "safediff explain quality/clip" in rules["all/quality/clip"]["help"]["text"]


def test_a_metric_of_another_package_is_explained_too() -> None:
    row = make_result("quality/colour-shift", Verdict.FAIL, metric="colour-shift")
    run = run_of([make_report((row,))])
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["id"] == run["results"][0]["ruleId"] == "all/quality/colour-shift"
    assert "another package" in rule["fullDescription"]["text"]
    assert rule["help"]["text"].endswith("safediff explain quality")


def fingerprints(*results: Any, **changes: Any) -> list[str]:
    run = run_of([make_report(results, **changes)])
    return [r["partialFingerprints"]["primaryLocationLineHash"] for r in run["results"]]


def test_fingerprints_stay_when_lines_and_numbers_move() -> None:
    row = make_result("erasure/all", Verdict.FAIL)
    moved = replace(row, policy_line=99, estimate=0.5, num_samples=7, message="other")
    assert fingerprints(row) == fingerprints(moved)
    assert fingerprints(row) == fingerprints(row, plan_sha256="00" * 32)


def test_fingerprints_differ_by_check_subject_and_policy() -> None:
    row = make_result("erasure/all", Verdict.FAIL)
    other = make_result("erasure/bomb", Verdict.FAIL)
    first, second = fingerprints(row, other)
    more = [*fingerprints(row, subject="engine"), *fingerprints(row, policy_name="p")]
    assert len({first, second, *more}) == 4


def test_a_check_without_a_line_points_at_the_file() -> None:
    row = make_result("collapse", Verdict.FAIL, policy_line=None)
    run = run_of([make_report((row,))])
    assert "region" not in run["results"][0]["locations"][0]["physicalLocation"]
    validate(json.loads(render_sarif([make_report((row,))], POLICY)))


def test_same_reports_same_bytes() -> None:
    assert render_sarif(all_verdicts(), POLICY) == render_sarif(all_verdicts(), POLICY)
