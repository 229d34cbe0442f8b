"""A finished run of the embedded model becomes a folder to serve, gated in its new precision."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from release_examples import new_keys
from serving_process import PATH, start
from small_policy import finished, write_policy
from test_cli_verbs import Ran, here

from safediff.export.manifest import read_manifest
from safediff.export.runtime import SafePipeline
from safediff.gate.verdict import Verdict
from safediff.release.signing import sign_release
from safediff.serve.pipeline import Settings
from safediff.workflow.deploy import deploy_run

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
    assert SafePipeline.from_release(out, num_threads=1).trust.engine == "torch"  # not signed
    private, public = new_keys(tmp_path, "ours")
    sign_release(out, private)
    pipeline = SafePipeline.from_release(out, num_threads=1, public_key=public)
    assert (pipeline.trust.engine, pipeline.trust.unverified) == ("onnx", "")
    assert pipeline.defaults == Settings(num_steps=8, guidance_scale=5.0)
    assert pipeline("owl, noto style", settings=Settings(2, 5.0))[0].size == (64, 64)


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
