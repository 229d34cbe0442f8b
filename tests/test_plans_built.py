"""Plans that TensorRT-RTX really builds, without a GPU, and what can be known of them without one.

A plan opens only on the GPU that it was built for. Without one its bytes are left: it holds the
weights of its model, and not those of another.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tensorrt_examples import needs_rtx, without_driver
from tiny import tiny_engine, tiny_unet
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export import plan_weights
from safediff.export.engine_files import MODEL_NAME
from safediff.export.identity import initializers_sha256
from safediff.export.open_plan import open_plan
from safediff.export.plan_profile import Profile
from safediff.export.plan_sidecar import read_sidecar
from safediff.export.to_onnx import export_denoiser
from safediff.export.to_tensorrt import (
    Kind,
    _set_flags,
    _set_target,
    build,
    load_module,
)
from safediff.export.to_triton import with_one_dimension
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import ModelPlan

pytestmark = needs_rtx
RTX: Kind = "tensorrt_rtx"
XL_INPUTS = {
    "sample": [-1, 4, -1, -1],
    "timestep": [],
    "encoder_hidden_states": [-1, 77, 32],
    "text_embeds": [-1, 16],
    "time_ids": [-1, 6],
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Engine folder of the embedded model's UNet, and its state."""
    model = load_backbone(ModelPlan(base="embedded", revision=None, dtype="float32"))
    folder = tmp_path_factory.mktemp("embedded") / "engine"
    export_denoiser(model.denoiser, folder, num_tokens=model.num_tokens)
    return folder, model.denoiser.state_dict()


@pytest.fixture(scope="module")
def xl_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds the plan of the small SDXL UNet for a target, once."""
    folder = tmp_path_factory.mktemp("xl")

    @functools.cache
    def built(target: str) -> Path:
        plan = folder / f"{target}.plan"
        build(tiny_engine(xl=True), plan, RTX, Profile.fixed(8), target=target)
        return plan

    return built


def held(plan: bytes, state: dict[str, Tensor]) -> float:
    """Which part of the tensors lies in a plan byte by byte; matrices may be turned round."""
    found = [
        any(np.ascontiguousarray(a).tobytes() in plan for a in (w.numpy(), w.numpy().T))
        for w in state.values()
        if w.ndim < 3
    ]
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("target", "static"), [("SM80", True), ("SM86", False), ("SM89", False), ("SM120", True)]
)
def test_the_embedded_model(
    embedded: tuple[Path, dict[str, Tensor]], tmp_path: Path, target: str, static: bool
) -> None:
    engine, state = embedded
    plan = tmp_path / "unet.plan"
    profile = Profile.fixed(8) if static else Profile.ranged(8, 4)
    sidecar = build(engine, plan, RTX, profile, target=target)
    assert json.loads((tmp_path / "unet.plan.json").read_text()) == sidecar
    assert plan.stat().st_size == sidecar["size_bytes"] >= sidecar["weights_bytes"] > 28_000_000
    assert sidecar["weights_sha256"] == initializers_sha256(engine / MODEL_NAME)
    assert (sidecar["target"], sidecar["static"]) == (target, static)
    largest = [2, 8, 8, 8] if static else [16, 8, 16, 16]
    assert sidecar["profile"]["sample"][2] == largest
    data = plan.read_bytes()
    assert held(data, state) > 0.8  # some are joined with others
    other = {key: w + 1e-6 * (1 + w.abs()) for key, w in state.items()}
    assert held(data, other) == 0
    assert plan_weights.held(plan, state) == state.keys()  # which it sees through
    assert plan_weights.held(plan, other) == set()


def test_the_embedded_model_in_half_precision(tmp_path: Path) -> None:
    """Only the doubled layers of the feed-forward blocks are tiled beyond recognition."""
    model = load_backbone(ModelPlan(base="embedded", revision=None, dtype="float32"))
    engine, plan = tmp_path / "engine", tmp_path / "unet.plan"
    export_denoiser(model.denoiser, engine, num_tokens=model.num_tokens, precision="fp16")
    build(engine, plan, RTX, Profile.fixed(8), target="SM89")
    state = plan_weights.cast_state(model.denoiser.state_dict(), "fp16")
    lacking = state.keys() - plan_weights.held(plan, state)
    assert len(state) == 208
    assert len(lacking) <= 4
    assert all(name.endswith("ff.net.0.proj.weight") for name in lacking)


@pytest.mark.parametrize("target", ["SM80", "SM86", "SM89", "SM120"])
def test_sdxl_in_small(xl_plan: Callable[[str], Path], target: str) -> None:
    plan = xl_plan(target)
    sidecar = read_sidecar(plan)
    assert (sidecar["target"], sidecar["flags"]) == (target, [])
    assert {t["name"]: t["dims"] for t in sidecar["inputs"]} == XL_INPUTS
    assert [t["name"] for t in sidecar["outputs"]] == ["out_sample"]
    assert {t["dtype"] for t in (*sidecar["inputs"], *sidecar["outputs"])} == {"FLOAT"}
    assert sidecar["profile"]["time_ids"] == [[2, 6]] * 3
    assert sidecar["weights_sha256"] == unet_sha256(tiny_unet(xl=True))
    data = plan.read_bytes()
    assert len(data) >= sidecar["weights_bytes"] > 0
    assert held(data, tiny_unet(xl=True).state_dict()) > 0.8
    assert held(data, tiny_unet(xl=True, seed=1).state_dict()) == 0


def test_half_precision_and_the_newer_operators(tmp_path: Path) -> None:
    engine = tiny_engine(xl=True, precision="fp16", opset=23)
    sidecar = build(engine, tmp_path / "unet.plan", RTX, Profile.fixed(8), target="SM89")
    types = {t["name"]: t["dtype"] for t in (*sidecar["inputs"], *sidecar["outputs"])}
    assert types.pop("timestep") == "FLOAT"
    assert types.pop("time_ids") in ("FLOAT", "HALF")
    assert set(types.values()) == {"HALF"}


def test_a_timestep_of_one_dimension_for_triton(tmp_path: Path) -> None:
    engine = with_one_dimension(tiny_engine(), tmp_path / "served")
    sidecar = build(engine, tmp_path / "unet.plan", RTX, Profile.fixed(8), target="SM89")
    assert {t["name"]: t["dims"] for t in sidecar["inputs"]}["timestep"] == [1]
    assert sidecar["weights_sha256"] == unet_sha256(tiny_unet())
    assert held((tmp_path / "unet.plan").read_bytes(), tiny_unet().state_dict()) > 0.8


@without_driver
def test_without_a_driver_a_plan_is_not_opened(
    xl_plan: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    plan = xl_plan("SM89")
    capfd.readouterr()
    with pytest.raises(Inconclusive, match=r"can't open it here: .*driver") as caught:
        open_plan(plan)
    assert "\n" not in str(caught.value)
    assert "GPU it was built for (SM89)" in caught.value.next_step
    assert capfd.readouterr() == ("", "")


def test_the_real_module_takes_what_it_is_told() -> None:
    trt: Any = load_module(RTX)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    assert config.get_flag(trt.BuilderFlag.TF32)  # by itself
    _set_flags(trt, config, ["WEIGHT_STREAMING"])
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    _set_target(trt, config, "SM86")
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM86
    shapes = Profile.ranged(8, 2).shapes(ir.load(tiny_engine(xl=True) / MODEL_NAME).graph.inputs)
    for name, triple in shapes.items():
        profile.set_shape(name, *triple)
        assert [tuple(shape) for shape in profile.get_shape(name)] == list(triple)
    assert config.add_optimization_profile(profile) == 0
    with pytest.raises(UsageError, match=r"--target SM90: expected .*SM120, SM121, SM75"):
        _set_target(trt, config, "SM90")
