"""The verdict document and its published schema."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ci_examples import POLICY, all_verdicts, passing
from gate_examples import make_report, make_result

from safediff.errors import UsageError
from safediff.gate.verdict import GateReport, Verdict
from safediff.report.json_report import render_json, reports_of, verdict_document
from safediff.report.verdict_schema import verdict_schema

PUBLISHED = Path(__file__).parents[1] / "docs" / "verdict.schema.json"


def validate(document: Any) -> None:
    jsonschema.validate(document, verdict_schema(), jsonschema.Draft202012Validator)


def test_the_published_schema_is_current() -> None:
    assert json.loads(PUBLISHED.read_text("utf-8")) == verdict_schema(), (
        "run: safediff schema --verdict > docs/verdict.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(verdict_schema())


@pytest.mark.parametrize("reports", [all_verdicts(), passing()])
def test_documents_follow_the_schema(reports: tuple[GateReport, ...]) -> None:
    validate(json.loads(render_json(reports, POLICY)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(verdict="maybe"),
        lambda d: d.pop("policy"),
        lambda d: d.update(schema_version=2),
        lambda d: d["counts"].pop("waived"),
        lambda d: d["reports"][0].update(extra=1),
        lambda d: d["reports"][0].pop("verdict"),
        lambda d: d["reports"][0]["results"][0].update(estimate="high"),
        lambda d: d["reports"][0]["results"][0].update(kind="nonsense"),
        lambda d: d["reports"][0]["results"][0]["threshold"].pop("op"),
    ],
)
def test_the_schema_is_held_against_them(spoil: Any) -> None:
    document = json.loads(render_json(all_verdicts(), POLICY))
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def test_verdict_and_counts_are_over_what_decides() -> None:
    document = verdict_document(all_verdicts(), POLICY)
    assert document["verdict"] == "fail"
    assert document["counts"] == {"pass": 12, "warn": 1, "fail": 1, "inconclusive": 1, "waived": 1}
    assert len(document["reports"]) == 3
    assert document["policy"]["path"] == POLICY
    mild = tuple(replace(r, decides=not r.decides) for r in all_verdicts()[1:])
    assert verdict_document(mild, POLICY)["counts"]["fail"] == 1


def test_keys_are_sorted_and_bytes_stable() -> None:
    text = render_json(all_verdicts(), POLICY)
    assert text == render_json(all_verdicts(), POLICY)
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_that_is_not_finite(value: float) -> None:
    row = make_result("erasure/all", Verdict.FAIL, details={"x": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_json([make_report((row,))], POLICY)


def test_round_trip() -> None:
    assert reports_of(json.loads(render_json(all_verdicts(), POLICY))) == [*all_verdicts()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 9}, "schema_version 9, expected 1"),
        ({"verdict": "pass"}, "says 'pass', its reports say 'fail'"),
        ({"reports": {}}, "no list of reports"),
        ({"reports": [1]}, "no list of reports"),
    ],
)
def test_documents_that_contradict_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reports_of(verdict_document(all_verdicts(), POLICY) | changes)
