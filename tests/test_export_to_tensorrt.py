"""The calls that build a plan, on a module that records them; a real build where there is one."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest
import torch
from serving_examples import release
from tiny import tiny_engine, tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.export.int8 import quantize_engine
from safediff.export.to_tensorrt import Profile, build, load_module, plan_name, require_gpu
from safediff.export.to_triton import check_config
from safediff.models.patch import unet_sha256
from safediff.workflow.export_source import open_source
from safediff.workflow.plans import export_plan

PROFILE = Profile(min_side=4, opt_side=8, max_side=16)


class FakeTrt:
    """Enough of ``tensorrt`` to build; ``fail`` names the call that goes wrong."""

    __version__ = "10.16.1"

    def __init__(self, fail: str = "", dtype: str = "FLOAT") -> None:
        self.fail, self.flags, self.shapes, self.target = fail, [], {}, None
        self.typed = 0
        self.Logger: Any = type("Logger", (), {"ERROR": 1, "__init__": lambda s, level: None})
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
        self.BuilderFlag = SimpleNamespace(TF32="tf32", REFIT="refit")
        self.ComputeCapability = SimpleNamespace(SM89="sm89", SM120="sm120", NONE="none")
        self.DataType = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", BF16="BF16")
        self.dtype = dtype

    def Builder(self, log: Any) -> Any:
        def network(flags: int) -> Any:
            self.typed = flags
            tensor = SimpleNamespace(name="sample", dtype=self.dtype)
            return SimpleNamespace(num_inputs=1, get_input=lambda i: tensor)

        def profile() -> Any:
            return SimpleNamespace(
                set_shape=lambda name, *triple: self.shapes.__setitem__(name, triple)
            )

        def config() -> Any:
            made = SimpleNamespace(num_compute_capabilities=0)
            made.set_flag = self.flags.append
            made.set_compute_capability = lambda c, i: setattr(self, "target", c)
            made.add_optimization_profile = lambda p: -1 if self.fail == "profile" else 0
            return made

        return SimpleNamespace(
            create_network=network,
            create_builder_config=config,
            create_optimization_profile=profile,
            build_serialized_network=lambda n, c: None if self.fail == "build" else b"the plan",
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return SimpleNamespace(
            parse_from_file=lambda path: self.fail != "parse" and Path(path).is_file(),
            num_errors=1,
            get_error=lambda i: "no such operator",
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    module = FakeTrt()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    return module


def test_a_plan_and_its_sidecar(fake: FakeTrt, tmp_path: Path) -> None:
    plan = tmp_path / "engines" / "unet.plan"
    build(tiny_engine(), plan, "tensorrt_rtx", PROFILE, target="SM89", flags=["TF32"])
    assert plan.read_bytes() == b"the plan"
    assert fake.typed == 1 << 3
    assert fake.flags == ["tf32"]
    assert fake.target == "sm89"
    assert fake.shapes == {  # the timestep is static
        "sample": ((2, 4, 4, 4), (2, 4, 8, 8), (16, 4, 16, 16)),
        "encoder_hidden_states": ((2, 77, 16), (2, 77, 16), (16, 77, 16)),
    }
    sidecar = json.loads((tmp_path / "engines" / "unet.plan.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(b"the plan").hexdigest()
    assert sidecar["weights_sha256"] == unet_sha256(tiny_unet())
    assert sidecar["module_version"] == "10.16.1"
    assert sidecar["refittable"] is False
    assert sidecar["gate"] is None


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("parse", "can't read it: no such operator"),
        ("profile", "rejects the profile"),
        ("build", "could not build a plan"),
    ],
)
def test_every_failure_is_told_and_leaves_nothing(
    fake: FakeTrt, tmp_path: Path, fail: str, message: str
) -> None:
    fake.fail = fail
    with pytest.raises(Inconclusive, match=message):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_half_precision_is_seen(fake: FakeTrt, tmp_path: Path) -> None:
    fake.dtype = "HALF"
    with pytest.raises(Inconclusive, match="input sample became HALF"):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", PROFILE)


@pytest.mark.parametrize("target", ["SM12", "NONE"])
def test_an_unknown_target(fake: FakeTrt, tmp_path: Path, target: str) -> None:
    with pytest.raises(UsageError, match="expected SM120, SM89"):
        build(tiny_engine(), tmp_path / "unet.plan", "tensorrt_rtx", PROFILE, target=target)


def test_int8_engines_are_refused(fake: FakeTrt, tmp_path: Path) -> None:
    quantize_engine(tiny_engine(), tmp_path / "int8", {})
    with pytest.raises(UsageError, match="unknown to TensorRT"):
        build(tmp_path / "int8", tmp_path / "unet.plan", "tensorrt", PROFILE)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="it is installed here")
def test_a_missing_module_names_its_extra_and_the_alternative() -> None:
    with pytest.raises(UsageError, match="tensorrt is not installed") as caught:
        load_module("tensorrt")
    assert "safediff[trt]" in caught.value.next_step
    assert "--onnx" in caught.value.next_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_alternatives_are_named(fake: FakeTrt, tmp_path: Path) -> None:
    for kind, target in (("tensorrt", None), ("tensorrt_rtx", None)):
        with pytest.raises(Inconclusive, match="there is none here") as caught:
            export_plan(release(), tmp_path, kind, "fp32", target)  # type: ignore[arg-type]
        assert "--trt-rtx --target SM89" in caught.value.next_step
    require_gpu("tensorrt_rtx", "SM89")


def test_a_release_becomes_a_plan(fake: FakeTrt, tmp_path: Path) -> None:
    line = export_plan(release(), tmp_path, "tensorrt_rtx", "fp32", "SM89")
    name = plan_name("tensorrt_rtx", "10.16.1", "fp32", "SM89")
    assert name == "unet.sm89.rtx10.16.1.fp32.plan"
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, f"{name}.json"]
    assert "not gated" in line
    assert fake.shapes["sample"][2] == (16, 4, 16, 16)


def test_a_plan_for_triton(fake: FakeTrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(release())
    monkeypatch.setattr("safediff.workflow.plans.open_source", lambda path: source)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    export_plan(release(), tmp_path, "tensorrt", "fp32", None, triton=True)
    served = tmp_path / "triton" / "safediff_unet"
    message = check_config((served / "config.pbtxt").read_text())
    assert message["backend"] == "tensorrt"
    assert [t["name"] for t in message["output"]] == ["out_sample"]
    assert (served / "1" / "model.plan").read_bytes() == b"the plan"
    assert unet_sha256(tiny_unet()) in json.dumps(message["parameters"])


def test_profiles_leave_static_inputs_out() -> None:
    inputs = ir.load(tiny_engine() / "model.onnx").graph.inputs
    assert set(PROFILE.shapes(inputs)) == {"sample", "encoder_hidden_states"}


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed"
)
def test_a_real_plan_is_built_without_a_gpu(tmp_path: Path) -> None:
    plan = tmp_path / "unet.plan"
    sidecar = build(tiny_engine(), plan, "tensorrt_rtx", PROFILE, target="SM89")
    assert plan.stat().st_size == sidecar["size_bytes"] > 10_000
