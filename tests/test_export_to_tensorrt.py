"""The calls that build a plan, on a module that records them."""

import gc
import hashlib
import json
import platform
import re
import sys
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from gate_examples import make_report, make_result
from serving_examples import copy_of, release
from tensorrt_examples import PLAN, FakeTrt, pretend_gpu
from tiny import tiny_engine, tiny_unet

from safediff.errors import Inconclusive, PolicyViolated, UsageError
from safediff.export import built_on, survival
from safediff.export.engine_files import Precision
from safediff.export.int8 import quantize_engine
from safediff.export.manifest import read_manifest
from safediff.export.open_plan import open_plan
from safediff.export.plan_profile import Profile, square_side
from safediff.export.plan_sidecar import amend_sidecar
from safediff.export.to_tensorrt import build, doubt_of, load_module, plan_name, require_gpu
from safediff.export.to_triton import check_config
from safediff.gate.verdict import Verdict
from safediff.models.patch import unet_sha256
from safediff.release.certificate_schema import read_certificate
from safediff.release.stamps import stamps_of
from safediff.serve.trust import establish
from safediff.workflow import plans
from safediff.workflow.export_source import open_source
from safediff.workflow.plan_gate import open_plan_of
from safediff.workflow.plans import export_plan

PROFILE = Profile(min_side=4, opt_side=8, max_side=16)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    module = FakeTrt()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    return module


def test_a_plan_and_its_sidecar(fake: FakeTrt, tmp_path: Path) -> None:
    plan = tmp_path / "engines" / "unet.plan"
    build(tiny_engine(), plan, "tensorrt_rtx", PROFILE, target="SM89", flags=["TF32"])
    assert plan.read_bytes() == PLAN
    assert fake.typed == 1 << 3
    assert fake.flags == {"TF32"}
    assert fake.target == "sm89"
    assert fake.shapes == {  # the timestep is static
        "sample": ((2, 4, 4, 4), (2, 4, 8, 8), (16, 4, 16, 16)),
        "encoder_hidden_states": ((2, 77, 16), (2, 77, 16), (16, 77, 16)),
    }
    sidecar = json.loads((tmp_path / "engines" / "unet.plan.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(PLAN).hexdigest()
    assert sidecar["weights_sha256"] == unet_sha256(tiny_unet())
    assert sidecar["module_version"] == "10.16.1"
    assert sidecar["inputs"][1] == {"name": "timestep", "dtype": "FLOAT", "dims": []}
    assert [t["name"] for t in sidecar["outputs"]] == ["out_sample"]
    assert sidecar["timing_cache"] is None
    assert (sidecar["refittable"], sidecar["static"]) == (False, False)
    assert sidecar["gate"] is None


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("parse", "can't read it: no such operator"),
        ("profile", "rejects the profile"),
        ("build", "could not build a plan"),
        ("inputs", "inputs .* became"),
    ],
)
def test_every_failure_is_told_and_leaves_nothing(
    fake: FakeTrt, tmp_path: Path, fail: str, message: str
) -> None:
    fake.fail = fail
    with pytest.raises(Inconclusive, match=message):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sample", "out_sample"])
def test_another_type_of_an_input_or_output_is_seen(
    fake: FakeTrt, tmp_path: Path, name: str
) -> None:
    fake.dtypes = {name: "HALF"}
    with pytest.raises(Inconclusive, match=f"put {name} became HALF"):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)


def test_a_plan_that_is_smaller_than_its_weights_is_refused(fake: FakeTrt, tmp_path: Path) -> None:
    num_bytes = sum(w.numel() * 4 for w in tiny_unet().state_dict().values())
    fake.plan = PLAN[: num_bytes - 1]
    with pytest.raises(Inconclusive, match=f"of weights that take {num_bytes}: some are lost"):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)
    assert list(tmp_path.iterdir()) == []
    build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE, flags=["STRIP_PLAN"])


def test_fp32_means_fp32_and_flags_are_checked(fake: FakeTrt, tmp_path: Path) -> None:
    build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)
    assert fake.flags == set()
    with pytest.raises(UsageError, match=r"TURBO: tensorrt 10\.16\.1 has no such builder flag"):
        build(tiny_engine(), tmp_path / "x.plan", "tensorrt", PROFILE, flags=["TURBO"])


@pytest.mark.parametrize("target", ["SM12", "NONE"])
def test_an_unknown_target(fake: FakeTrt, tmp_path: Path, target: str) -> None:
    with pytest.raises(UsageError, match="expected SM120, SM89"):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt_rtx", PROFILE, target=target)


def test_int8_engines_are_refused(fake: FakeTrt, tmp_path: Path) -> None:
    quantize_engine(tiny_engine(), tmp_path / "int8", {})
    with pytest.raises(UsageError, match="unknown to TensorRT"):
        build(tmp_path / "int8", tmp_path / "unet.plan", "tensorrt", PROFILE)


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_int8_is_refused_before_anything_is_read(
    fake: FakeTrt, tmp_path: Path, precision: Precision
) -> None:
    with pytest.raises(UsageError, match=f"^{precision}: ONNX Runtime's int8 operators are unkn"):
        export_plan(tmp_path / "nothing", tmp_path / "out", "tensorrt_rtx", precision, "SM89")


@pytest.mark.parametrize("target", ["SM90", "sm89"])
def test_an_unknown_target_is_refused_before_anything_is_read(
    fake: FakeTrt, tmp_path: Path, target: str
) -> None:
    with pytest.raises(UsageError, match=f"^--target {target}: expected SM120, SM89$"):
        export_plan(tmp_path / "nothing", tmp_path / "out", "tensorrt_rtx", "fp32", target)


def test_a_version_that_refits_wrongly_is_refused_before_anything_is_read(
    fake: FakeTrt, tmp_path: Path
) -> None:
    fake.__version__ = "11.3.0"
    with pytest.raises(UsageError, match="may compute wrongly"):
        export_plan(tmp_path, tmp_path, "tensorrt", "fp32", None, refittable=True)


def test_a_missing_module_names_its_extra_and_the_alternative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as if it were not installed
    with pytest.raises(UsageError, match="tensorrt is not installed") as caught:
        load_module("tensorrt")
    assert "safediff[trt]" in caught.value.next_step
    assert "--onnx" in caught.value.next_step


def test_without_a_gpu_the_alternatives_are_named(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind, target in (("tensorrt", None), ("tensorrt_rtx", None)):
        with pytest.raises(Inconclusive, match="there is none here") as caught:
            export_plan(release(), tmp_path, kind, "fp32", target)  # type: ignore[arg-type]
        assert "--trt-rtx --target SM89" in caught.value.next_step
    require_gpu("tensorrt_rtx", "SM89")


def test_a_release_becomes_one_with_a_plan(fake: FakeTrt, tmp_path: Path) -> None:
    fake.plan = None  # one that holds its weights
    line = export_plan(release(), tmp_path, "tensorrt_rtx", "fp32", "SM89")
    name = plan_name("tensorrt_rtx", "10.16.1", "fp32", "SM89")
    assert name == "unet.sm89.rtx10.16.1.fp32.plan"
    assert sorted(p.name for p in (tmp_path / "engines").iterdir()) == [name, f"{name}.json"]
    count = len(tiny_unet().state_dict())
    assert f"{count} of {count} tensors lie in it byte by byte; not gated" in line
    assert fake.shapes["sample"][2] == (16, 4, 16, 16)
    (row,) = read_certificate(tmp_path / "safety-certificate.json")["engines"]
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert row["parity"] is None  # it was never run
    assert row["delta"] == manifest["engines"][0]["delta"]
    assert (row["delta"]["precision"], row["delta"]["survives"]) == ("fp32", True)


def test_an_edit_that_drowns_is_refused_before_a_build(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survival, "MIN_COSINE", 1.1)
    out = tmp_path / "out"
    told = f"{out}: not written, the engine failed its checks: fp32; edit DROWNS IN ROUNDING"
    with pytest.raises(PolicyViolated, match=re.escape(told)):
        export_plan(release(), out, "tensorrt_rtx", "fp32", "SM89")
    assert fake.parsed == Path()
    assert list(tmp_path.iterdir()) == []


def test_a_gate_decides_on_a_drowned_edit(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.plan, out = None, tmp_path / "out"
    passed = make_report((make_result("erasure/all", Verdict.PASS),))
    monkeypatch.setattr(survival, "MIN_COSINE", 1.1)
    monkeypatch.setattr(plans, "same_policy", lambda source, policy: policy)
    monkeypatch.setattr(plans, "measure_plan", lambda *given: ([passed], None))
    policies = [tmp_path / "policy.yaml"]
    export_plan(release(), out, "tensorrt_rtx", "fp32", "SM89", policies=policies)
    (row,) = read_certificate(out / "safety-certificate.json")["engines"]
    assert row["delta"]["survives"] is False


def test_a_release_that_is_changed_after_its_check_gets_no_plan(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, changed = copy_of(release(), tmp_path / "r"), "tokenizer/tokenizer_config.json"
    monkeypatch.setattr(
        "safediff.workflow.plans.require_unet", lambda *given: (read / changed).write_text("{}")
    )
    with pytest.raises(UsageError, match=f"{changed} was changed between its check"):
        export_plan(read, tmp_path / "out", "tensorrt_rtx", "fp32", "SM89")
    assert not (tmp_path / "out").exists()


def test_a_plan_that_does_not_hold_its_weights(fake: FakeTrt, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"only 0 of .* weights of the model lie in it"):
        export_plan(release(), out, "tensorrt_rtx", "fp32", "SM89")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unreleased(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported has not met its policy."""
    source = replace(open_source(release()), release=None)
    monkeypatch.setattr("safediff.workflow.plans.open_source", lambda path: source)


@pytest.mark.usefixtures("unreleased")
def test_without_a_release_a_plan_is_not_gated(fake: FakeTrt, tmp_path: Path) -> None:
    policy, out = tmp_path / "policy.yaml", tmp_path / "out"
    for kind, target in (("tensorrt_rtx", "SM89"), ("tensorrt_rtx", "SM120")):
        with pytest.raises(UsageError, match="has no release, so no plan of it can be gated"):
            export_plan(release(), out, kind, "fp32", target, policies=[policy])  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unreleased")
def test_without_a_release_a_refused_plan_leaves_the_folder_as_it_was(
    fake: FakeTrt, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"only 0 of .* weights of the model lie in it"):
        export_plan(release(), out, "tensorrt_rtx", "fp32", "SM89")
    assert list(tmp_path.iterdir()) == []
    fake.plan = None
    line = export_plan(release(), out, "tensorrt_rtx", "fp32", "SM89", triton=True)
    assert line.startswith(f"{out / 'engines'}/unet.sm89.")
    assert {path.name for path in out.iterdir()} == {"engines", "triton"}
    export_plan(release(), out, "tensorrt_rtx", "fp32", "SM120")  # in the place of the first
    assert {path.name for path in out.iterdir()} == {"engines"}


@pytest.mark.usefixtures("unreleased")
def test_without_a_release_no_other_folder_is_written_into(fake: FakeTrt, tmp_path: Path) -> None:
    fake.plan = None
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "mine.txt").touch()
    with pytest.raises(UsageError, match="exists and is not a folder of plans"):
        export_plan(release(), tmp_path, "tensorrt_rtx", "fp32", "SM89", triton=True)
    assert (tmp_path / "triton" / "mine.txt").exists()


def test_a_repository_goes_with_the_plan_that_it_served(fake: FakeTrt, tmp_path: Path) -> None:
    fake.plan, first, second, third = None, *(tmp_path / name for name in "abc")
    export_plan(release(), first, "tensorrt_rtx", "fp32", "SM89", triton=True)
    export_plan(first, second, "tensorrt_rtx", "fp32", "SM120")
    assert (second / "triton").exists()  # its plan is still there
    fake.added = b"another build"
    export_plan(first, third, "tensorrt_rtx", "fp32", "SM89")
    assert not (third / "triton").exists()
    for path in (second, third):
        assert establish(path).engine == "onnx"


def test_a_plan_for_triton(fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(release())
    monkeypatch.setattr("safediff.workflow.plans.open_source", lambda path: source)
    pretend_gpu(monkeypatch)
    export_plan(release(), tmp_path, "tensorrt", "fp32", None, triton=True)
    served = tmp_path / "triton" / "safediff_unet"
    message = check_config((served / "config.pbtxt").read_text())
    assert message["backend"] == "tensorrt"
    assert [t["name"] for t in message["output"]] == ["out_sample"]
    assert message["input"][1] == {"name": "timestep", "data_type": "TYPE_FP32", "dims": [1]}
    assert fake.read["timestep"] == [1]  # the backend compares it with the plan's
    assert (served / "1" / "model.plan").read_bytes() == PLAN
    assert unet_sha256(tiny_unet()) in json.dumps(message["parameters"])
    assert establish(tmp_path).engine == "onnx"  # the copy is the plan that is certified


def test_a_static_refittable_plan(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Inconclusive, match="a refittable plan needs a GPU"):
        export_plan(release(), tmp_path, "tensorrt_rtx", "fp32", "SM89", refittable=True)
    source = open_source(release())
    monkeypatch.setattr("safediff.workflow.plans.open_source", lambda path: source)
    pretend_gpu(monkeypatch)
    export_plan(release(), tmp_path, "tensorrt", "fp32", None, refittable=True, static=True)
    plan = tmp_path / "engines" / "unet.sm90.trt10.16.1.fp32.static.refit.plan"
    sidecar = json.loads(plan.with_name(f"{plan.name}.json").read_text())
    assert fake.flags == {"REFIT"}
    assert (sidecar["refittable"], sidecar["static"]) == (True, True)
    assert fake.shapes["sample"] == ((2, 4, 8, 8),) * 3
    fake.__version__ = "11.4.0"
    line = export_plan(release(), tmp_path, "tensorrt", "fp32", None, refittable=True)
    assert "; warning: whether tensorrt 11.4.0 still drops a bias of refittable plans" in line


@pytest.mark.parametrize(
    ("version", "refittable", "doubted"),
    [("11.4.0", True, True), ("11.4.0", False, False), ("10.16.1", True, False)],
)
def test_a_version_whose_refits_are_unproven_is_warned_of(
    version: str, refittable: bool, doubted: bool
) -> None:
    sidecar = {"kind": "tensorrt", "module_version": version, "refittable": refittable}
    told = doubt_of(sidecar)
    assert ("whether tensorrt 11.4.0 still drops a bias" in told, bool(told)) == (doubted, doubted)


DRIVER = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Tue Jun 10 21:02:19 UTC 2026
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""


def test_the_sidecar_says_which_gpu_built_the_plan(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setattr(built_on, "DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    pretend_gpu(monkeypatch)
    sidecar = build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)
    assert sidecar["compute_capability"] == "SM90"
    assert sidecar["built_on"] == {
        "gpu": "NVIDIA H100",
        "compute_capability": "SM90",
        "driver": "580.65.06",
        "cuda": "13.0",
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    monkeypatch.setattr(built_on, "DRIVER_FILE", tmp_path / "none")
    assert built_on.built_on()["driver"] is None


def test_a_plan_for_a_named_target_was_built_on_none(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sidecar = build(tiny_engine(), tmp_path / "unet.plan", "tensorrt_rtx", PROFILE, target="SM89")
    found = sidecar["built_on"]
    assert sidecar["compute_capability"] == "SM89"
    assert (found["gpu"], found["compute_capability"], found["driver"]) == (None, None, None)
    assert found["python"] == platform.python_version()


def test_plans_of_two_gpus_lie_side_by_side(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.plan, first, second = None, tmp_path / "first", tmp_path / "second"
    source = open_source(release())
    monkeypatch.setattr("safediff.workflow.plans.open_source", lambda path: source)
    pretend_gpu(monkeypatch)
    line = export_plan(release(), first, "tensorrt", "fp32", None)
    assert ", for NVIDIA H100; built from" in line
    source = replace(source, release=first, stamps=stamps_of(first))
    pretend_gpu(monkeypatch, "NVIDIA L4", (8, 9))
    fake.added = b"another build"
    export_plan(first, second, "tensorrt", "fp32", None)
    plans = sorted(path.name for path in (second / "engines").glob("*.plan"))
    assert plans == ["unet.sm89.trt10.16.1.fp32.plan", "unet.sm90.trt10.16.1.fp32.plan"]
    rows = read_certificate(second / "safety-certificate.json")["engines"]
    assert [row["plan"]["built_on"]["gpu"] for row in rows] == ["NVIDIA L4", "NVIDIA H100"]
    manifest = read_manifest(second)
    assert manifest is not None
    assert {row["built_on"]["compute_capability"] for row in manifest["engines"]} == {
        "SM89",
        "SM90",
    }


def test_a_plan_of_another_gpu_is_not_opened(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.plan, out = None, tmp_path / "out"
    source = open_source(release())
    monkeypatch.setattr("safediff.workflow.plans.open_source", lambda path: source)
    pretend_gpu(monkeypatch)
    export_plan(release(), out, "tensorrt", "fp32", None)
    (plan,) = (out / "engines").glob("*.plan")
    own = replace(source, path=out, release=out)
    monkeypatch.setattr("safediff.workflow.plan_gate.open_source", lambda path: own)
    pretend_gpu(monkeypatch, "NVIDIA L4", (8, 9))
    with pytest.raises(Inconclusive, match=r"was built on NVIDIA H100 \(SM90\), here is SM89") as e:
        open_plan_of(out, plan)
    assert "\n" not in str(e.value)
    assert fake.opened == []
    pretend_gpu(monkeypatch)
    open_plan(plan)
    assert len(fake.opened) == 1
    pretend_gpu(monkeypatch, "NVIDIA L4", (8, 9))
    amend_sidecar(plan, compute_capability=None, built_on=None)  # as earlier versions wrote them
    open_plan(plan)
    assert len(fake.opened) == 2


def test_a_profile_is_of_square_pictures() -> None:
    assert square_side(8) == square_side([8, 8]) == square_side((8, 8)) == 8
    with pytest.raises(UsageError, match="latents of 8 x 16: TensorRT's profiles are of square"):
        square_side([8, 16])


def test_profiles_are_multiples() -> None:
    assert Profile.ranged(8, 2) == Profile(min_side=4, opt_side=8, max_side=16)
    assert Profile.ranged(24, 8).min_side == 8
    assert Profile.ranged(8, 8).min_side == 8
    assert not Profile.ranged(8, 2).is_static


@pytest.mark.parametrize(
    ("side", "multiple", "largest"), [(64, 8, 96), (96, 8, 144), (128, 4, 192), (72, 16, 96)]
)
def test_large_latents_have_a_narrower_range(side: int, multiple: int, largest: int) -> None:
    """Scores of attention grow with the rows and the fourth power of the side."""
    found = Profile.ranged(side, multiple)
    assert (found.min_batch, found.max_batch) == (2, 4)
    assert (found.opt_side, found.max_side) == (side, largest)
    below = Profile.ranged(63, 1)
    assert (below.max_batch, below.max_side) == (16, 126)


def test_memory_is_freed_before_a_build(
    fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: order.append("garbage"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("cache"))
    builder = fake.Builder

    def built(log: object) -> object:
        order.append("builder")
        return builder(log)

    monkeypatch.setattr(fake, "Builder", built)
    build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)
    assert order == ["garbage", "cache", "builder"]


def test_profiles_leave_static_inputs_out() -> None:
    inputs = ir.load(tiny_engine() / "model.onnx").graph.inputs
    assert set(PROFILE.shapes(inputs)) == {"sample", "encoder_hidden_states"}
