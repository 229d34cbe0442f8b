"""A plan is gated where it runs: from a run to a signed release that serves it.

The driver is a recording module that computes what the plan's graph does; the policy, its judge and
everything else are real. What the audit says of the plan is held against a plan of other weights.
"""

import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from audit_examples import forge
from release_examples import new_keys
from serving_examples import recertified
from small_policy import finished, write_policy
from tensorrt_examples import FakeTrt
from test_cli_verbs import Ran, here, said

from safediff.errors import PolicyViolated, UsageError
from safediff.export import parity, plan_session
from safediff.export.manifest import read_manifest
from safediff.export.plan_sidecar import amend_sidecar
from safediff.export.runtime import SafePipeline
from safediff.gate.verdict import GateReport, Verdict
from safediff.policy.plan import Plan
from safediff.release.audit import audit
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import sha256_file
from safediff.release.signing import sign_release
from safediff.serve import plans
from safediff.serve.pipeline import Settings
from safediff.serve.trust import establish
from safediff.verify.verification import Verification
from safediff.workflow.engine_gate import same_policy
from safediff.workflow.export_source import ExportSource
from safediff.workflow.plan_gate import gate_plan, open_plan_of
from safediff.workflow.plans import export_plan

__all__ = ["here"]

CERTIFICATE = "safety-certificate.json"
NOW = datetime.now(UTC)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    module = FakeTrt()
    module.plan = None  # one that holds its weights
    module.inputs = {
        "sample": (-1, 8, -1, -1),
        "timestep": (),
        "encoder_hidden_states": (-1, 77, 128),
    }
    module.runs = finished().run.release / "unet" / "model.onnx"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    monkeypatch.setattr(plan_session, "device", lambda: torch.device("cpu"))
    return module


@pytest.fixture
def planned(fake: FakeTrt, tmp_path: Path) -> Path:
    folder = tmp_path / "planned"
    export_plan(finished().run.path, folder, "tensorrt_rtx", "fp32", "SM89")
    return folder


def plan_of(path: Path) -> Path:
    (plan,) = (path / "engines").glob("*.plan")
    return plan


def test_a_plan_is_gated_signed_and_served(
    fake: FakeTrt, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, out = write_policy(tmp_path), tmp_path / "gated"
    line = gate_plan(planned, Path("engines") / plan_of(planned).name, [policy], out)
    assert line.startswith(f"{plan_of(out)}: gate: pass")
    row = read_certificate(out / CERTIFICATE)["engines"][0]
    assert (row["gate"], row["parity"]["gate_rerun"], row["parity"]["passed"]) == (
        "pass",
        True,
        True,
    )
    assert audit(out / CERTIFICATE, out, None, NOW).problems == ()
    manifest = read_manifest(out)
    assert manifest is not None
    (engine,) = manifest["engines"]
    assert engine["gate"]["bound_to"] == sha256_file(plan_of(out)) == engine["sha256"]
    report = GateReport.from_json({k: v for k, v in engine["gate"].items() if k != "bound_to"})
    assert report.model_sha256["engine"] == engine["sha256"]
    assert {r.kind for r in report.results} >= {"erasure", "retention", "parity"}
    private, public = new_keys(tmp_path, "ours")
    sign_release(out, private)
    name, few = row["path"], Settings(2, 5.0)
    served = SafePipeline.from_release(out, engine=name, num_threads=1, public_key=public)
    assert (served.trust.engine, served.trust.unverified) == ("plan", "")
    monkeypatch.setattr(plans, "compute_capability", lambda: "SM89")
    unnamed = establish(out, public_key=public)
    assert (unnamed.engine, unnamed.plan_file, unnamed.remark) == ("plan", name, "")
    fake.ran.clear()
    found = np.asarray(served("owl, noto style", settings=few)[0]).astype(int)
    assert len(fake.ran) == 2  # steps
    plain = SafePipeline.from_release(out, engine="onnx", num_threads=1, public_key=public)
    assert plain.trust.engine == "onnx"
    assert np.abs(found - np.asarray(plain("owl, noto style", settings=few)[0])).max() <= 1


def test_a_plan_that_computes_something_else_leaves_its_report(
    fake: FakeTrt, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = parity.ParityLimits(max_abs=1e-12, mean_abs=1e-12, min_cosine=1.0)
    monkeypatch.setitem(parity.LIMITS, "fp32", none)  # type: ignore[arg-type]
    out = tmp_path / "new" / "gated"
    with pytest.raises(PolicyViolated, match="not written, policy small is not met"):
        gate_plan(planned, plan_of(planned), [write_policy(tmp_path)], out)
    assert not out.exists()
    told = json.loads((tmp_path / "new" / "gated.gate.json").read_text())
    failed = [r["id"] for r in told["results"] if r["verdict"] == Verdict.FAIL.value]
    assert failed == ["parity/onnx engine"]


def test_nothing_is_measured_for_a_folder_that_can_not_be_written(
    fake: FakeTrt, planned: Path, tmp_path: Path
) -> None:
    policy, foreign = write_policy(tmp_path), tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    for out, why in ((foreign, "exists and is not an exported"), (planned / "g", "lies in the r")):
        with pytest.raises(UsageError, match=why):
            gate_plan(planned, plan_of(planned), [policy], out)
    assert fake.opened == []


def test_a_release_that_is_changed_after_its_check_is_not_copied(
    fake: FakeTrt, planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = "vae/config.json"

    def meanwhile(source: ExportSource, policy: Path) -> Plan:
        (planned / changed).write_text("{}")
        return same_policy(source, policy)

    monkeypatch.setattr("safediff.workflow.plan_gate.same_policy", meanwhile)
    with pytest.raises(UsageError, match=f"{changed} was changed between its check"):
        gate_plan(planned, plan_of(planned), [write_policy(tmp_path)], tmp_path / "gated")
    assert fake.opened == []
    assert not (tmp_path / "gated").exists()


def test_verify_measures_a_plan_in_the_place_of_the_engine(
    fake: FakeTrt, planned: Path, tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, measured = write_policy(tmp_path, ("num_steps: 4, g", "num_steps: 1, g")), []
    original = Verification.measure

    def counted(self: Verification, subject: str, *given: object, **more: object) -> object:
        _, hashes = given
        assert isinstance(hashes, dict)
        measured.append((subject, hashes.get("engine")))
        return original(self, subject, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Verification, "measure", counted)
    out, name = tmp_path / "out", plan_of(planned).name
    done = here("verify", planned, policy, "--engine", plan_of(planned), "--out", out, "--quiet")
    assert done.returncode in (0, 1, 3)  # one step draws noise
    assert measured == [("model", None), (name, sha256_file(plan_of(planned)))]
    assert "parity/onnx engine" in (out / "report.md").read_text()


def test_only_a_plan_of_the_release_is_measured(
    fake: FakeTrt, planned: Path, tmp_path: Path
) -> None:
    stray = shutil.copyfile(plan_of(planned), tmp_path / "stray.plan")
    with pytest.raises(UsageError, match=r"stray\.plan: is no plan of"):
        gate_plan(planned, stray, [write_policy(tmp_path)], tmp_path / "gated")
    amend_sidecar(plan_of(planned), base_sha256="ee" * 32)
    recertified(planned)
    with pytest.raises(UsageError, match="is a plan of base eeeeeeeeeeee"):
        open_plan_of(planned, plan_of(planned))
    assert fake.opened == []


def test_the_audit_looks_into_a_plan(fake: FakeTrt, planned: Path) -> None:
    found = audit(planned / CERTIFICATE, planned, None, NOW)
    assert (found.problems, found.verdict) == ((), Verdict.PASS)
    name = f"engines/{plan_of(planned).name}"
    assert found.facts["engines"] == f"{name} in fp32 holds 208 of 208 weights, not gated"
    content = bytearray(plan_of(planned).read_bytes())
    content[-2_000_000:] = bytes(2_000_000)
    plan_of(planned).write_bytes(content)
    sidecar = plan_of(planned).with_name(f"{plan_of(planned).name}.json")
    said_of = json.loads(sidecar.read_text()) | {"sha256": sha256_file(plan_of(planned))}
    sidecar.write_text(json.dumps(said_of))
    recertified(planned)  # all that can be written anew was
    (problem,) = audit(planned / CERTIFICATE, planned, None, NOW).problems
    assert problem.startswith(f"{name} does not hold the certified weights (")
    forge(planned, lambda c: c["engines"].clear())
    problems = audit(planned / CERTIFICATE, planned, None, NOW).problems
    assert problems == (f"{name} is a plan that is not among those that the certificate speaks of",)


def test_a_plan_needs_its_release(here: Ran, tmp_path: Path) -> None:
    line = said(here("export", tmp_path, "--plan", "x.plan", "--gate", "p.yaml"), 2)
    assert "is neither a run nor a release" in line
