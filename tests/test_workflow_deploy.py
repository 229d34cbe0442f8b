"""A finished run of the embedded model becomes a folder to serve, gated in its new precision."""

import json
from pathlib import Path

from small_policy import finished, write_policy

from safediff.export.manifest import read_manifest
from safediff.export.runtime import SafePipeline
from safediff.gate.verdict import Verdict
from safediff.serve.pipeline import Settings
from safediff.workflow.deploy import deploy_run


def test_a_run_is_gated_in_int8_and_served_by_that(tmp_path: Path) -> None:
    run, policy, out = finished().run.path, write_policy(tmp_path), tmp_path / "serve"
    deployed = deploy_run(run, out, "int8", 18, policy=policy)
    assert deployed.gate is not None
    assert deployed.gate.verdict is Verdict.PASS
    assert {r.kind for r in deployed.gate.results} >= {"erasure", "retention"}
    manifest = read_manifest(out)
    assert manifest is not None
    engine = manifest["engines"][0]
    assert (engine["precision"], engine["in_certificate"]) == ("int8", False)
    assert engine["gate"]["bound_to"] == engine["sha256"]
    assert engine["delta"]["layers"]
    pipeline = SafePipeline.from_release(out, num_threads=1)
    assert pipeline.trust.engine == "onnx"
    assert pipeline.defaults == Settings(num_steps=8, guidance_scale=5.0)
    assert pipeline("owl, noto style", settings=Settings(2, 5.0))[0].size == (64, 64)


def test_the_certificate_of_a_run_says_what_rounding_left() -> None:
    path = finished().run.release / "safety-certificate.json"
    (parity,) = json.loads(path.read_text(encoding="utf-8"))["deployment_parity"]
    assert parity["margin_ratio"] is not None
    assert parity["delta"]["survives"]
    assert parity["delta"]["precision"] == "fp32"
