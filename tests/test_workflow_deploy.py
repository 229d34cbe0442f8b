"""A finished run of the embedded model becomes a folder to serve, gated in its new precision."""

import base64
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_examples import flip_a_byte, forge
from PIL import Image
from release_examples import new_keys
from serving_examples import copy_of, passed_gate, recertified
from serving_process import PATH, start
from small_policy import finished, write_policy
from test_cli_verbs import Ran, here

from safediff.export.manifest import MANIFEST_NAME, read_manifest, write_manifest
from safediff.export.runtime import SafePipeline
from safediff.gate.verdict import Verdict
from safediff.release.audit import Audit, audit
from safediff.release.bom import bill_of_materials, dump_bom
from safediff.release.card import model_card
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.signing import sign_release
from safediff.serve.pipeline import Settings
from safediff.workflow.deploy import SINGLE_FILE, deploy_run

__all__ = ["here"]


def test_from_a_policy_to_a_picture(tmp_path: Path, here: Ran) -> None:
    """Erased by its policy, exported as a folder, served, asked by HTTP: what PyTorch draws."""
    run, out = finished().run.path, tmp_path / "serve"
    done = here("export", run, "--onnx", "--full", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    server = start(out)
    wanted = {"prompt": "owl, noto style", "seed": 7, "num_steps": 4, "guidance_scale": 5.0}
    answer = server.ask(PATH, wanted | {"size": "64x64"})
    health = server.ask("/healthz").json
    code, errors = server.stop()
    assert (answer.status, code) == (200, 0), errors
    assert (health["policy"], health["verdict"], health["engine"]) == ("small", "pass", "onnx")
    assert health["unverified"] is None
    plain = SafePipeline.from_release(run / "release", engine="torch", num_threads=1)
    expected = plain("owl, noto style", seed=7, settings=Settings(4, 5.0))[0]
    with Image.open(io.BytesIO(base64.b64decode(answer.json["data"][0]["b64_json"]))) as found:
        assert (found.format, found.size) == ("PNG", (64, 64))
        difference = np.asarray(found).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


def test_a_run_is_gated_in_int8_and_served_by_that(tmp_path: Path) -> None:
    run, policy, out = finished().run.path, write_policy(tmp_path), tmp_path / "serve"
    deployed = deploy_run(run, out, "int8", 18, policies=[policy])
    (gated,) = deployed.gates
    assert gated.verdict is Verdict.PASS
    assert {r.kind for r in gated.results} >= {"erasure", "retention"}
    manifest = read_manifest(out)
    assert manifest is not None
    engine = manifest["engines"][0]
    assert (engine["precision"], engine["in_certificate"]) == ("int8", False)
    assert engine["gate"]["bound_to"] == engine["sha256"]
    assert engine["delta"]["layers"]
    assert {r.id for r in gated.results} >= {"parity/onnx engine", "parity/edit"}
    assert audited(out).problems == ()
    assert SafePipeline.from_release(out, num_threads=1).trust.engine == "torch"  # not signed
    private, public = new_keys(tmp_path, "ours")
    sign_release(out, private)
    pipeline = SafePipeline.from_release(out, num_threads=1, public_key=public)
    assert (pipeline.trust.engine, pipeline.trust.unverified) == ("onnx", "")
    assert pipeline.defaults == Settings(num_steps=4, guidance_scale=5.0)
    assert pipeline("owl, noto style", settings=Settings(2, 5.0))[0].size == (64, 64)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run in half the precision of its certified engine, and in one file; do not write
    to it."""
    folder = tmp_path_factory.mktemp("half") / "serve"
    deploy_run(finished().run.path, folder, "fp16", 18, ("single-file",))
    return folder


def audited(folder: Path) -> Audit:
    return audit(folder / "safety-certificate.json", folder, None, datetime.now(UTC))


def test_an_engine_in_another_precision_takes_the_certified_ones_place(halved: Path) -> None:
    found = audited(halved)
    assert (found.problems, found.verdict) == ((), Verdict.PASS)
    told = "unet/model.onnx in fp16 holds the certified weights, not gated"
    assert told in found.facts["engines"]
    told = f"{SINGLE_FILE} in fp32 holds the certified weights, not gated"
    assert told in found.facts["engines"]
    certificate = read_certificate(halved / "safety-certificate.json")
    now, was = sha256_file(halved / "unet" / "model.onnx"), certificate["subject"]
    assert now not in {row["sha256"] for row in was}  # which stays what was issued
    bom = (halved / "bom.cdx.json").read_text(encoding="utf-8")
    assert bom == dump_bom(bill_of_materials(certificate))
    assert now in bom
    assert (halved / "README.md").read_text(encoding="utf-8") == model_card(certificate)
    statement = json.loads((halved / "gate.intoto.json").read_text(encoding="utf-8"))
    assert "unet/model.onnx" not in {row["name"] for row in statement["subject"]}


def test_another_models_engine_does_not_take_it(halved: Path, tmp_path: Path) -> None:
    path = copy_of(halved, tmp_path / "r")
    flip_a_byte(path / "unet" / "model.onnx.data")
    recertified(path)
    (problem,) = audited(path).problems
    assert problem.startswith("unet/model.onnx does not hold the certified weights (")


def test_another_models_single_file_does_not_take_its_place(halved: Path, tmp_path: Path) -> None:
    path = copy_of(halved, tmp_path / "r")
    flip_a_byte(path / SINGLE_FILE)
    write_checksums(path)
    says = f"{SINGLE_FILE} holds weights that the certificate does not speak of"
    assert says in audited(path).problems
    recertified(path)
    (problem,) = audited(path).problems
    assert problem.startswith(f"{SINGLE_FILE} does not hold the certified weights (")


def test_a_gate_without_its_report_is_not_believed(halved: Path, tmp_path: Path) -> None:
    path, name = copy_of(halved, tmp_path / "r"), "unet/model.onnx"

    def passed(certificate: dict[str, Any]) -> None:
        (row,) = [row for row in certificate["engines"] if row["path"] == name]
        row["gate"] = "pass"

    def reported(**changes: Any) -> tuple[str, ...]:
        manifest = read_manifest(path)
        assert manifest is not None
        (row,) = manifest["engines"]
        policy = read_certificate(path / "safety-certificate.json")["policy"]
        own = {"policy_name": policy["name"], "policy_sha256": policy["sha256"]}
        row["gate"] = passed_gate(row) | own | changes
        write_manifest(path, manifest)
        write_checksums(path)
        return audited(path).problems

    forge(path, passed)
    found = audited(path)
    lacks = f"{name}: the certificate says gate pass, {MANIFEST_NAME} holds no report on it"
    assert (found.problems, "engines" in found.facts) == ((lacks,), False)
    for other in ({"bound_to": "00" * 32}, {"policy_sha256": "00" * 32}):
        assert reported(**other) == (lacks,)
    fails = f"{name}: the certificate says gate pass, {MANIFEST_NAME} fail"
    assert reported(verdict="fail") == (fails,)
    assert reported() == ()
    (path / MANIFEST_NAME).write_text('{"schema": "safediff-export/1", "engines": [{}]}')
    write_checksums(path)
    assert audited(path).problems == (
        f"{MANIFEST_NAME}: not a readable manifest (KeyError('gate'))",
    )


def test_the_certificate_of_a_run_says_what_rounding_left() -> None:
    path = finished().run.release / "safety-certificate.json"
    certificate = json.loads(path.read_text(encoding="utf-8"))
    (row,) = [row for row in certificate["checks"] if row["id"] == "parity/edit"]
    assert (row["subject"], row["verdict"]) == ("onnx engine", "pass")
    assert row["estimate"] == pytest.approx(1.0)
    (parity,) = certificate["deployment_parity"]
    assert parity["margin_ratio"] is not None
    assert parity["delta"]["survives"]
    assert parity["delta"]["precision"] == "fp32"
