"""A release that combines policies: every certificate must hold, and every one is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_examples import make_report, make_result
from release_examples import make_evidence, new_keys
from serving_examples import copy_of, release, resolved_plan
from starlette.testclient import TestClient
from tiny import tiny_backbone, tiny_engine

from safediff.errors import UsageError
from safediff.export.manifest import read_manifest, write_manifest
from safediff.gate.verdict import Verdict
from safediff.release.certificate import dump_certificate
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.layout import write_release
from safediff.release.signing import sign_release
from safediff.serve.app import build_app
from safediff.serve.pipeline import SafePipeline
from safediff.serve.trust import establish
from safediff.workflow.deploy import Deployed, Gate, deploy
from safediff.workflow.export_source import open_source

FIRST, SECOND = "safety-certificate.json", "policies/other/safety-certificate.json"


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write to it."""
    folder = tmp_path_factory.mktemp("combined")
    base = json.loads((release() / FIRST).read_text())["base_model"]

    def evidence(name: str) -> Any:
        policy = make_evidence().policy | {"name": name, "resolved": resolved_plan(name=name)}
        return make_evidence(policy=policy, base_model=base)

    words = folder / "words.json"
    words.write_text("{}")
    write_release(
        folder / "r",
        tiny_backbone(folder / "tokenizer"),
        evidence("first"),
        engine=tiny_engine(),
        extra_files={"policies/other/notes.json": words},
        more={SECOND: evidence("other")},
    )
    return folder / "r"


def test_every_certificate_is_named(combined: Path) -> None:
    hashes = [sha256_file(combined / name) for name in (FIRST, SECOND)]
    pipeline = SafePipeline.from_release(combined, num_threads=1)
    with TestClient(build_app(pipeline)) as client:
        answer = client.get("/healthz")
    assert answer.headers["X-Safediff-Certificate"] == ", ".join(hashes)
    assert answer.headers["X-Safediff-Verdict"] == "pass"
    assert answer.json()["certificate_sha256"] == ", ".join(hashes)
    assert answer.json()["policy"] == "first, other"


def change(combined: Path, path: Path, **changes: Any) -> Path:
    """The second certificate says something else; checksums renewed."""
    copy_of(combined, path)
    certificate = json.loads((path / SECOND).read_text()) | changes
    (path / SECOND).write_text(dump_certificate(certificate))
    write_checksums(path)
    return path


def test_each_of_them_must_hold(combined: Path, tmp_path: Path) -> None:
    failed = change(combined, tmp_path / "failed", verdict="fail")
    with pytest.raises(UsageError, match="its certificate of policy other says fail, not pass"):
        establish(failed)
    trust = establish(failed, accept_unverified="a trial without users")
    assert (trust.verdict, trust.unverified) == ("fail", "a trial without users")
    expired = change(combined, tmp_path / "old", expires_at="2026-11-25T00:00:00+00:00")
    with pytest.raises(UsageError, match="of policy other expired on 2026-11-25"):
        establish(expired)
    subject = json.loads((combined / SECOND).read_text())["subject"]
    subject[0]["sha256"] = "ab" * 32
    other = change(combined, tmp_path / "weights", subject=subject)
    with pytest.raises(UsageError, match="is not the file that the certificate speaks of"):
        establish(other)


def gate_of(name: str) -> Gate:
    """One that passes."""
    results = (make_result("erasure/all", Verdict.PASS),)
    return lambda unet, measured: make_report(results, policy_name=name)


def in_half(combined: Path, path: Path, *gated: str) -> Deployed:
    return deploy(open_source(combined), path, "fp16", 18, gates=[*map(gate_of, gated)])


def said_of_the_unet(path: Path, certificate: str) -> tuple[Any, Any]:
    engines = read_certificate(path / certificate)["engines"]
    (row,) = [row for row in engines if row["part"] == "unet"]
    return row["gate"], row["parity"]["gate_rerun"]


@pytest.mark.usefixtures("traced_once")
def test_a_gate_speaks_for_its_own_policy(combined: Path, tmp_path: Path) -> None:
    path = tmp_path / "r"
    deployed = in_half(combined, path, "other")
    assert deployed.line.endswith("; gate: not measured (first), pass (other)")
    assert said_of_the_unet(path, FIRST) == (None, False)
    assert said_of_the_unet(path, SECOND) == ("pass", True)
    private, public = new_keys(tmp_path, "ours")
    sign_release(path, private)
    message = "no gate report on it of policy first passed"
    trust = establish(path, public_key=public)
    assert trust.engine == "torch"
    assert message in trust.remark
    with pytest.raises(UsageError, match=message):
        establish(path, engine="onnx", public_key=public)


@pytest.mark.usefixtures("traced_once")
def test_an_engine_that_every_policy_was_measured_on_is_served(
    combined: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r"
    deployed = in_half(combined, path, "other", "first")
    assert deployed.line.endswith("; gate: pass (first), pass (other)")
    assert {said_of_the_unet(path, name) for name in (FIRST, SECOND)} == {("pass", True)}
    private, public = new_keys(tmp_path, "ours")
    sign_release(path, private)
    trust = establish(path, public_key=public)
    assert (trust.engine, trust.unverified) == ("onnx", "")
    manifest = read_manifest(path)
    assert manifest is not None
    manifest["engines"][0]["more_gates"][0]["verdict"] = "fail"
    write_manifest(path, manifest)
    write_checksums(path)
    sign_release(path, private)
    assert "of policy first passed" in establish(path, public_key=public).remark


def test_one_guard_is_served(combined: Path, tmp_path: Path) -> None:
    policy = json.loads((combined / SECOND).read_text())["policy"]
    policy["resolved"]["guard"] = {"name": "sld-max", "texts": ["axe"]}
    path = change(combined, tmp_path / "r", policy=policy)
    with pytest.raises(UsageError, match="were met behind different guards"):
        establish(path)
