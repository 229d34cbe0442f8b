"""The in-toto statement: right predicate, right lists, none where nothing was decided."""

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from release_examples import (
    ENGINE_FILE,
    PARITY_ROW,
    WEIGHTS_FILE,
    added_engine,
    attacked_evidence,
    engine_report,
    guarded_evidence,
    make_evidence,
)

from safediff.gate.verdict import Verdict
from safediff.release.certificate import Evidence, issue_certificate
from safediff.release.gate_statement import dump_statement, gate_statement

Json = dict[str, Any]


def statement(evidence: Evidence) -> Json:
    found = gate_statement(issue_certificate(evidence, [WEIGHTS_FILE, ENGINE_FILE]))
    assert found is not None
    return found


@pytest.mark.parametrize("evidence", [make_evidence(), attacked_evidence(), guarded_evidence()])
def test_it_is_a_statement_and_a_test_result(evidence: Evidence) -> None:
    found = statement(evidence)
    Statement.copy_from_pb(ParseDict(found, statement_pb2.Statement())).validate()
    ParseDict(found["predicate"], test_result_pb2.TestResult())
    assert found["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert [s["digest"]["sha256"] for s in found["subject"]] == ["0a" * 32] * 2
    first = found["predicate"]["configuration"][0]
    assert (first["name"], first["digest"]) == ("demo-weapons.yaml", {"sha256": "a1" * 32})


def test_it_names_the_guard() -> None:
    configured = statement(guarded_evidence())["predicate"]["configuration"][0]
    assert configured["annotations"] == {"behind": "guard sld-max (25 steps, guidance 7.5)"}
    assert "annotations" not in statement(make_evidence())["predicate"]["configuration"][0]


def test_an_engine_that_was_exported_anew_is_none_of_its_subjects() -> None:
    certificate = issue_certificate(make_evidence(), [WEIGHTS_FILE, ENGINE_FILE])
    found = gate_statement(certificate | {"engines": [added_engine()]})
    assert found is not None
    assert [subject["name"] for subject in found["subject"]] == [WEIGHTS_FILE["path"]]


def test_warned_and_waived_checks_are_warned_tests() -> None:
    predicate = statement(attacked_evidence())["predicate"]
    assert predicate["result"] == "WARNED"
    assert predicate["warnedTests"] == ["teacher: quality/kid", "teacher: robustness/completion"]
    assert predicate["passedTests"] == ["teacher: erasure/all", "onnx engine: erasure/all"]
    assert predicate["failedTests"] == []


def test_passed_and_failed() -> None:
    clean = make_evidence(reports=make_evidence().reports[1:])
    assert statement(clean)["predicate"]["result"] == "PASSED"
    failed = statement(make_evidence(reports=(engine_report(Verdict.FAIL),)))["predicate"]
    assert (failed["result"], failed["failedTests"]) == ("FAILED", ["onnx engine: erasure/all"])
    apart = make_evidence(deployment_parity=(PARITY_ROW | {"passed": False},))
    assert statement(apart)["predicate"]["failedTests"] == ["unet/model.onnx: parity"]


def test_there_is_none_for_inconclusive() -> None:
    undecided = make_evidence(reports=(engine_report(Verdict.INCONCLUSIVE),))
    certificate = issue_certificate(undecided, [WEIGHTS_FILE, ENGINE_FILE])
    assert certificate["verdict"] == "inconclusive"
    assert gate_statement(certificate) is None


def test_same_certificate_same_bytes() -> None:
    text = dump_statement(statement(make_evidence()))
    assert text == dump_statement(statement(make_evidence()))
    assert json.loads(text) == statement(make_evidence())
