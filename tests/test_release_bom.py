"""The bill of materials follows the official schema and says what the certificate says."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
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
from small_policy import finished

from safediff.gate.verdict import Verdict
from safediff.release.bom import BOM_NAME, bill_of_materials, dump_bom
from safediff.release.certificate import Evidence, issue_certificate

Json = dict[str, Any]


def bom(evidence: Evidence) -> Json:
    return bill_of_materials(issue_certificate(evidence, [WEIGHTS_FILE, ENGINE_FILE]))


def error(text: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.mark.parametrize(
    "evidence",
    [
        make_evidence(),
        attacked_evidence(),
        guarded_evidence(),
        make_evidence(reports=(engine_report(Verdict.FAIL),)),
        make_evidence(deployment_parity=(PARITY_ROW | {"passed": False},)),
        make_evidence(base_model=make_evidence().base_model | {"revision": None}),
    ],
    ids=["pass", "attacked", "guarded", "fail", "parity", "local"],
)
def test_it_follows_the_official_schema(evidence: Evidence) -> None:
    assert error(dump_bom(bom(evidence))) is None


def test_that_of_a_real_release_does_and_comes_from_its_certificate() -> None:
    release = finished().run.path / "release"
    text = (release / BOM_NAME).read_text(encoding="utf-8")
    assert error(text) is None
    certificate = json.loads((release / "safety-certificate.json").read_text(encoding="utf-8"))
    assert text == dump_bom(bill_of_materials(certificate))


def test_a_broken_one_is_seen() -> None:
    broken = bom(make_evidence())
    broken["metadata"]["component"]["hash"] = "x"
    assert error(json.dumps(broken)) is not None


def test_it_names_files_base_and_numbers() -> None:
    model = bom(make_evidence())["metadata"]["component"]
    assert {c["name"]: c["hashes"][0]["content"] for c in model["components"]} == {
        row["path"]: row["sha256"] for row in (WEIGHTS_FILE, ENGINE_FILE)
    }
    assert model["pedigree"]["ancestors"][0]["name"] == "CompVis/stable-diffusion-v1-4"
    assert model["description"].startswith("Met policy demo-weapons")
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0] == {
        "type": "concept rate",
        "value": "0.012",
        "slice": "teacher: erasure/all",
        "confidenceInterval": {"lowerBound": "0.002", "upperBound": "0.034"},
    }
    limits = model["modelCard"]["considerations"]["technicalLimitations"]
    assert limits == ["English prompts only"]


def test_it_names_the_engine_that_is_there() -> None:
    certificate = issue_certificate(make_evidence(), [WEIGHTS_FILE, ENGINE_FILE])
    found = bill_of_materials(certificate | {"engines": [added_engine()]})
    assert error(dump_bom(found)) is None
    files = {c["name"]: c for c in found["metadata"]["component"]["components"]}
    assert {name: c["hashes"][0]["content"] for name, c in files.items()} == {
        WEIGHTS_FILE["path"]: WEIGHTS_FILE["sha256"],
        "unet/model.onnx": "1b" * 32,
        "unet/model.onnx.data": "1c" * 32,
    }
    told = {p["name"]: p["value"] for p in files["unet/model.onnx"]["properties"]}
    assert told["safediff:gate"] == "not measured"


def test_it_names_the_guard() -> None:
    properties = bom(guarded_evidence())["metadata"]["component"]["properties"]
    behind = {"name": "safediff:behind", "value": "guard sld-max (25 steps, guidance 7.5)"}
    assert behind in properties
    assert behind not in bom(make_evidence())["metadata"]["component"]["properties"]


def test_claims_expire_and_counter_evidence_stands_beside_them() -> None:
    found = bom(attacked_evidence())["declarations"]
    assert found["assessors"] == [{"bom-ref": "assessor", "thirdParty": False}]
    assert all(entry["expires"] > entry["created"] for entry in found["evidence"])
    (erasure,) = [c for c in found["claims"] if c["bom-ref"] == "claim:teacher:erasure/all"]
    assert erasure["counterEvidence"] == ["counter-evidence:0"]
    assert any("completion" in entry["description"] for entry in found["evidence"])
    scores = {row["requirement"]: row["conformance"]["score"] for row in _map(found)}
    assert scores["requirement:teacher:erasure/all"] == 1.0
    assert scores["requirement:teacher:robustness/completion"] == 0.0  # waived is not met


def _map(declarations: Json) -> list[Json]:
    rows: list[Json] = declarations["attestations"][0]["map"]
    return rows


def test_every_reference_is_there_once() -> None:
    text = dump_bom(bom(attacked_evidence()))
    refs: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            refs.extend([node["bom-ref"]] if "bom-ref" in node else [])
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(json.loads(text))
    assert len(refs) == len(set(refs))
    for entry in _map(json.loads(text)["declarations"]):
        assert {entry["requirement"], *entry["claims"]} <= set(refs)


def test_same_certificate_same_bytes_and_another_serial_for_another() -> None:
    assert dump_bom(bom(make_evidence())) == dump_bom(bom(make_evidence()))
    assert bom(make_evidence())["serialNumber"] != bom(attacked_evidence())["serialNumber"]
