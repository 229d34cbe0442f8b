"""``--engine auto`` takes a plan where everything speaks for it, and says why it passed one over.

The module that opens it is a recording one, which computes what the plan's graph does.
"""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from release_examples import make_evidence, new_keys
from serving_examples import copy_of, passed_gate, release
from tensorrt_examples import FakeTrt
from tiny import tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.export import plan_session
from safediff.export.built_on import compute_capability
from safediff.export.manifest import read_manifest, write_manifest
from safediff.export.plan_sidecar import amend_sidecar, sidecar_path
from safediff.export.runtime import SafePipeline
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan
from safediff.release.certificate import dump_certificate
from safediff.release.checksums import sha256_file, write_checksums
from safediff.release.signing import sign_release
from safediff.serve import plans
from safediff.serve.pipeline import Settings
from safediff.serve.trust import Trust, establish
from safediff.workflow.plans import export_plan

CERTIFICATE = "safety-certificate.json"
KIND = "tensorrt_rtx"
NAME = "engines/unet.sm89.rtx10.16.1.fp32.static.plan"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
REASON = "an internal trial without users"
NUM_TENSORS = len(tiny_unet().state_dict())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release with a plan for SM89 that nobody gated; do not write to it."""
    folder, fake = tmp_path_factory.mktemp("planned") / "r", FakeTrt()
    fake.plan = None  # one that holds its weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, KIND, fake)
        export_plan(release(), folder, "tensorrt_rtx", "fp32", "SM89", static=True)
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    """The machine that the plan was built for."""
    module = FakeTrt()
    side, text = (2, 4, 8, 8), (2, 77, 16)
    module.shapes = {"sample": (side,) * 3, "encoder_hidden_states": (text,) * 3}
    module.runs = release() / "unet" / "model.onnx"
    monkeypatch.setitem(sys.modules, KIND, module)
    monkeypatch.setattr(plan_session, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(plans, "compute_capability", lambda: "SM89")
    return module


class Signed:
    """A copy of the release, with a gate report on its plan and a signature over all of it."""

    def __init__(self, planned: Path, folder: Path) -> None:
        self.path = copy_of(planned, folder / "r")
        self.private, self.public = new_keys(folder, "ours")
        self.plan = self.path / NAME
        self.sidecar = sidecar_path(self.plan)
        self.entered(gate="pass")

    def entered(self, **changes: Any) -> None:
        """Renew the manifest's and the certificate's entry, and so checksums and signature."""
        manifest, file = read_manifest(self.path), self.path / CERTIFICATE
        assert manifest is not None
        (engine,) = manifest["engines"]
        engine |= {"sha256": sha256_file(self.plan), "data_sha256": sha256_file(self.sidecar)}
        engine["gate"] = passed_gate(engine)
        write_manifest(self.path, manifest)
        certificate = json.loads(file.read_text())
        (row,) = certificate["engines"]
        row |= changes
        row["sha256"] = sha256_file(self.plan)
        row["files"] = {name: sha256_file(self.path / name) for name in row["files"]}
        file.write_text(dump_certificate(certificate))
        write_checksums(self.path)
        sign_release(self.path, self.private)

    def taken(self, **options: Any) -> Trust:
        return establish(self.path, **{"public_key": self.public, "now": NOW, **options})


@pytest.fixture
def signed(planned: Path, tmp_path: Path) -> Signed:
    return Signed(planned, tmp_path)


def test_a_plan_that_everything_speaks_for_is_taken(fake: FakeTrt, signed: Signed) -> None:
    trust = signed.taken()
    assert (trust.engine, trust.plan_file, trust.remark) == ("plan", NAME, "")
    assert trust.plan_sha256 == sha256_file(signed.plan)
    assert (trust.doubts, trust.unverified) == ((), "")
    few = Settings(num_steps=2, guidance_scale=5.0)
    by_plan = SafePipeline.from_release(signed.path, num_threads=1, public_key=signed.public)
    assert by_plan.drawn_by == f"unet {NAME} on cpu"
    found = np.asarray(by_plan("an owl", settings=few)[0]).astype(int)
    assert len(fake.ran) == 2  # steps
    plain = SafePipeline.from_release(signed.path, engine="onnx", num_threads=1)
    assert np.abs(found - np.asarray(plain("an owl", settings=few)[0])).max() <= 1


@pytest.mark.parametrize("asked", [None, True, False])
def test_whether_it_is_recorded_is_told_to_the_plan(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch, asked: bool | None
) -> None:
    seen: list[Any] = []

    def opened(plan: Path, sha256: str, *, cuda_graph: bool | None) -> plan_session.PlanSession:
        seen.append((plan.name, sha256, cuda_graph))
        return plan_session.PlanSession(plan, sha256)

    monkeypatch.setattr("safediff.serve.pipeline.PlanSession", opened)
    SafePipeline.from_release(
        signed.path, num_threads=1, public_key=signed.public, cuda_graph=asked
    )
    assert seen == [(signed.plan.name, sha256_file(signed.plan), asked)]


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"engine": NAME, "provider": "NoSuchProvider"}, "--provider"),
        ({"engine": NAME, "spin": False}, "--no-spin"),
        ({"spin": False}, "--no-spin"),
    ],
    ids=str,
)
def test_options_of_onnx_runtime_where_it_runs_nothing(
    fake: FakeTrt, signed: Signed, asked: dict[str, Any], option: str
) -> None:
    """Text encoder and decoder are PyTorch's here."""
    message = f"{option} is for ONNX Runtime, which runs no part beside {NAME}"
    with pytest.raises(UsageError, match=message) as caught:
        SafePipeline.from_release(signed.path, num_threads=1, public_key=signed.public, **asked)
    assert caught.value.next_step == f"leave {option} out"


def no_driver(plan: Path, sha256: str, *, cuda_graph: bool | None) -> Any:
    raise Inconclusive(f"{plan.name}: the runtime refuses it")


def test_one_that_can_not_be_opened_is_passed_over(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safediff.serve.pipeline.PlanSession", no_driver)
    served = SafePipeline.from_release(signed.path, num_threads=1, public_key=signed.public)
    why = f"it can't be opened here: {signed.plan.name}: the runtime refuses it"
    passed_over(served.trust, why)
    assert served.drawn_by == "unet onnx on CPUExecutionProvider"


@pytest.mark.parametrize("asked", [{"engine": NAME}, {"cuda_graph": True}])
def test_one_that_was_asked_for_is_not(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    monkeypatch.setattr("safediff.serve.pipeline.PlanSession", no_driver)
    with pytest.raises(Inconclusive, match="the runtime refuses it"):
        SafePipeline.from_release(signed.path, num_threads=1, public_key=signed.public, **asked)


def test_another_part_that_can_not_be_opened_is_not_the_plans_fault(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[ModelPlan] = []

    def full_at_first(plan: ModelPlan) -> Backbone:
        tried.append(plan)
        if len(tried) == 1:
            raise Inconclusive("no memory for the text encoder")
        return load_backbone(plan)

    monkeypatch.setattr("safediff.serve.pipeline.load_backbone", full_at_first)
    with pytest.raises(Inconclusive, match="no memory for the text encoder"):
        SafePipeline.from_release(signed.path, num_threads=1, public_key=signed.public)


def test_one_that_is_exchanged_meanwhile_is_not_passed_over(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchanged(plan: Path, sha256: str, *, cuda_graph: bool | None) -> Any:
        plan.write_bytes(plan.read_bytes() + b"x")
        return plan_session.PlanSession(plan, sha256)

    monkeypatch.setattr("safediff.serve.pipeline.PlanSession", exchanged)
    with pytest.raises(UsageError, match=NAME):
        SafePipeline.from_release(signed.path, num_threads=1, public_key=signed.public)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_another_engine_that_is_named_is_taken(fake: FakeTrt, signed: Signed, engine: str) -> None:
    trust = signed.taken(engine=engine)
    assert (trust.engine, trust.remark) == (engine, "")


def passed_over(trust: Trust, why: str) -> None:
    assert (trust.engine, trust.plan_file, trust.plan_sha256) == ("onnx", "", "")
    assert trust.remark == f"{NAME} is passed over: {why}"


Machine = Callable[[pytest.MonkeyPatch, FakeTrt], None]


def no_gpu(patch: pytest.MonkeyPatch, fake: FakeTrt) -> None:
    patch.setattr(plans, "compute_capability", lambda: None)


def another_gpu(patch: pytest.MonkeyPatch, fake: FakeTrt) -> None:
    patch.setattr(plans, "compute_capability", lambda: "SM120")


def another_version(patch: pytest.MonkeyPatch, fake: FakeTrt) -> None:
    patch.setattr(fake, "__version__", "10.17")


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (no_gpu, "there is no GPU here"),
        (another_gpu, "it was built for SM89, here is SM120"),
        (another_version, "it was built by tensorrt_rtx 10.16.1, here is 10.17"),
    ],
)
def test_a_machine_that_it_does_not_fit(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch, machine: Machine, why: str
) -> None:
    machine(monkeypatch, fake)
    passed_over(signed.taken(), why)


def test_a_module_that_is_not_installed(
    fake: FakeTrt, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, KIND, None)
    trust = signed.taken()
    assert trust.engine == "onnx"
    assert trust.remark.startswith(f"{NAME} is passed over: {KIND} is not installed (")


def test_without_a_signature_that_was_checked(fake: FakeTrt, signed: Signed) -> None:
    passed_over(signed.taken(public_key=None), "no checked signature covers the gate report on it")


def test_a_plan_that_nobody_gated(fake: FakeTrt, planned: Path) -> None:
    passed_over(establish(planned, now=NOW), "it has not passed the gate on a GPU")


def test_a_gate_that_the_certificate_does_not_speak_of(fake: FakeTrt, signed: Signed) -> None:
    signed.entered(gate=None)
    passed_over(signed.taken(), "its entry in the certificate says of no gate that it passed")


def test_a_plan_in_which_not_all_weights_were_found(fake: FakeTrt, signed: Signed) -> None:
    counts: dict[str, Any] = {"found": NUM_TENSORS - 1, "of": NUM_TENSORS}
    counts |= dict.fromkeys(("edited_found", "edited_of", "base_found"))
    amend_sidecar(signed.plan, weights_found=counts)
    plan = json.loads((signed.path / CERTIFICATE).read_text())["engines"][0]["plan"]
    signed.entered(plan=plan | {"weights_found": counts})
    why = f"{NUM_TENSORS - 1} of {NUM_TENSORS} weights were found in it, not all"
    passed_over(signed.taken(), why)


def test_a_plan_that_lacks_a_weight_that_everything_says_is_there(
    fake: FakeTrt, signed: Signed
) -> None:
    """They are counted again; a signed untruth is no reason to serve something else."""
    content = bytearray(signed.plan.read_bytes())
    content[content.index(tiny_unet().state_dict()["conv_in.bias"].numpy().tobytes())] ^= 1
    signed.plan.write_bytes(content)
    told = json.loads(signed.sidecar.read_text()) | {"sha256": sha256_file(signed.plan)}
    signed.sidecar.write_text(json.dumps(told))
    signed.entered()
    with pytest.raises(UsageError, match="weights lie in it, its sidecar says"):
        signed.taken()


def test_a_provider_that_was_asked_for(fake: FakeTrt, signed: Signed) -> None:
    why = "CPUExecutionProvider was asked for, which does not run it"
    passed_over(signed.taken(provider="CPUExecutionProvider"), why)
    named = signed.taken(provider="CPUExecutionProvider", engine=NAME)
    assert named.engine == "plan"


def test_a_release_that_something_speaks_against(fake: FakeTrt, signed: Signed) -> None:
    later = make_evidence().issued_at + timedelta(days=181)
    trust = signed.taken(accept_unverified=REASON, now=later)
    passed_over(trust, "its certificate expired on 2027-05-23")
    assert trust.unverified == REASON


def test_the_capability_is_that_of_the_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_capability() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 1))
    assert compute_capability() == "SM121"
