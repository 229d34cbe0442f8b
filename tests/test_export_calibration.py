"""Calibration leaves those layers in fp32 that int8 harms, and says what it did."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from serving_examples import release
from tiny import tiny_backbone, tiny_engine, tiny_unet
from torch import nn

from safediff.errors import Inconclusive
from safediff.export.calibration import (
    CalibrationSet,
    Reading,
    Ruler,
    choose,
    collect,
    read_layers,
    settle,
)
from safediff.export.engine_files import MODEL_NAME, read_metadata
from safediff.export.exported_unet import ExportedUNet
from safediff.export.fake_int8 import in_int8, linear_layers, rounded_activation, rounded_weight
from safediff.export.identity import verify_identity
from safediff.export.int8 import quantize_engine, read_weight
from safediff.models.backbone import Backbone
from safediff.workflow import calibrate
from safediff.workflow.calibrate import (
    CALIBRATION,
    NUM_TEXTS,
    calibration_texts,
    write_calibrated,
)
from safediff.workflow.engine_report import measure_engine
from safediff.workflow.export_source import ExportSource, open_source

TEXTS = {"erased": ["an axe", "axe"], "kept": ["an owl"], "empty": [""]}


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("safe"))


@pytest.fixture(scope="module")
def inputs(safe: Backbone) -> CalibrationSet:
    return collect(safe, TEXTS, 5.0)


@pytest.fixture(scope="module")
def source() -> ExportSource:
    return open_source(release())


def reading(*errors: float, margin: float | None = None) -> Reading:
    return Reading(errors={("empty", i): e for i, e in enumerate(errors)}, margin_ratio=margin)


def test_rounding_is_onnx_runtimes() -> None:
    """x = 0 stays 0, and an outlier makes the steps of all others wide."""
    x = torch.tensor([-1.0, 0.0, 0.004, 4.1])
    step = 5.1 / 255
    assert rounded_activation(x).tolist() == pytest.approx([-50 * step, 0, 0, 205 * step])
    assert torch.equal(rounded_activation(torch.zeros(3)), torch.zeros(3))
    weight = torch.tensor([[1.27, -0.634], [0.0, 0.0]])
    assert torch.allclose(rounded_weight(weight), torch.tensor([[1.27, -0.63], [0.0, 0.0]]))


def test_the_simulation_predicts_what_the_engine_does(
    safe: Backbone, inputs: CalibrationSet, tmp_path: Path
) -> None:
    quantize_engine(tiny_engine(), tmp_path / "int8", {})
    engine = safe.with_denoiser(ExportedUNet(tmp_path / "int8", num_threads=1))
    ruler = Ruler(inputs, safe, None)
    found = ruler.read(engine.denoise)
    before = {key: w.clone() for key, w in safe.denoiser.state_dict().items()}
    with in_int8(linear_layers(safe.denoiser).values()):
        simulated = ruler.read(safe.denoise)
    assert 1e-4 < found.largest == pytest.approx(simulated.largest, rel=0.1)
    assert ruler.read(safe.denoise).largest == 0
    assert all(torch.equal(w, before[key]) for key, w in safe.denoiser.state_dict().items())


def test_layers_are_put_back_where_something_fails(safe: Backbone) -> None:
    layer = next(iter(linear_layers(safe.denoiser).values()))
    before = layer.weight.clone()

    def fail() -> None:
        with in_int8([layer]):
            assert not torch.equal(layer.weight, before)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert torch.equal(layer.weight, before)
    assert not layer._forward_pre_hooks


def test_the_calibration_set(safe: Backbone, inputs: CalibrationSet) -> None:
    assert inputs.groups == {"erased": slice(0, 2), "kept": slice(2, 3), "empty": slice(3, 4)}
    assert len(inputs.condition) == 4
    steps = [int(t) for t, _ in inputs.points]
    assert len(steps) == 4
    assert steps == sorted(steps, reverse=True)
    again = collect(safe, TEXTS, 5.0)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(inputs.points, again.points, strict=True))
    other = collect(safe, TEXTS, 5.0, seed=1)
    assert not torch.equal(inputs.points[0][1], other.points[0][1])
    without = collect(safe, TEXTS | {"erased": []}, 5.0)
    assert without.groups == {"kept": slice(0, 1), "empty": slice(1, 2)}


def test_a_planted_outlier_is_found_and_left_alone(inputs: CalibrationSet, tmp_path: Path) -> None:
    """One layer gets an input far larger than all others, of a weight that hardly counts."""
    model = tiny_backbone(tmp_path / "words")
    name = "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight"
    layer = linear_layers(model.denoiser)[name]
    plant_outlier(layer)
    ruler = Ruler(inputs, model, None)
    readings = read_layers(ruler)
    assert max(readings, key=lambda key: readings[key].largest) == name
    sizes = {key: layer.weight.numel() for key, layer in linear_layers(model.denoiser).items()}
    limit = 0.9 * readings[name].largest
    assert choose(readings, sizes, limit, 1.0)[0] == name


def plant_outlier(layer: nn.Linear) -> None:
    def grown(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = given[0].clone()
        x[..., 0] = 300.0
        return (x,)

    layer.weight.data[:, 0] = 0
    layer.register_forward_pre_hook(grown)


def test_margin_and_error_are_both_limits(safe: Backbone, inputs: CalibrationSet) -> None:
    base = safe.with_denoiser(tiny_unet(seed=7))
    ruler = Ruler(inputs, safe, base)
    assert ruler.read(base.denoise).margin_ratio == pytest.approx(1)
    assert ruler.read(safe.denoise).margin_ratio == 0
    assert Ruler(inputs, safe, safe).read(base.denoise).margin_ratio is None
    assert reading(0.01, 0.03, margin=0.5).ratios(0.02).tolist() == [0.5, 1.5, 2.0]
    assert reading(float("nan")).ratios(0.02).tolist() == [np.inf]


def test_what_costs_most_per_weight_goes_first() -> None:
    readings = {"big": reading(0.03, 0), "small": reading(0.02, 0), "late": reading(0, 0.005)}
    sizes = {"big": 100, "small": 10, "late": 1}
    assert choose(readings, sizes, 0.1, 1.0) == []
    assert choose(readings, sizes, 0.031, 1.0) == ["small"]
    assert choose(readings, sizes, 0.025, 1.0) == ["small", "big"]  # 0.03 alone is too much
    assert choose(readings, sizes, 0.004, 1.0) == ["small", "big", "late"]


def test_what_the_sum_did_not_foresee_is_measured() -> None:
    readings = {str(i): reading(0.01) for i in range(10)}
    sizes = dict.fromkeys(readings, 1)
    tried = []

    def measure(kept: list[str]) -> Reading:
        tried.append(len(kept))
        return reading(0.005 * (10 - len(kept)))  # errors that all point the same way

    kept, found = settle(readings, sizes, 0.02, measure)
    assert found.largest <= 0.02
    assert tried[0] == 6  # four times 0.01 squared
    assert len(kept) == tried[-1] < 10
    kept, found = settle(readings, sizes, 0.02, lambda kept: reading(1.0))
    assert (len(kept), found.largest) == (10, 0)


def simulated(source: ExportSource) -> float:
    """What int8 costs with all layers."""
    model = source.model
    ruler = Ruler(collect(model, calibration_texts(source), 5.0), model, None)
    with in_int8(linear_layers(model.denoiser).values()):
        return ruler.read(model.denoise).largest


def test_a_calibrated_engine(source: ExportSource, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    state = source.model.denoiser.state_dict()
    limit = 0.7 * simulated(source)
    found = write_calibrated(source, tiny_engine(), engine, {"policy": "small"}, max_error=limit)
    assert found.after.largest <= limit < found.before.largest
    assert 0 < len(found.kept) < found.num_layers
    model = ir.load(engine / MODEL_NAME)
    stored = set(model.graph.initializers)
    assert all(f"unet.{key}" in stored for key in found.kept)
    for key in found.kept:
        assert np.array_equal(read_weight(model, key), state[key].numpy())
    quantized = {n.removesuffix("_quantized") for n in stored if n.endswith("_quantized")}
    assert len(quantized) == found.num_layers - len(found.kept)
    verify_identity(engine / MODEL_NAME, state)
    other = state | {found.kept[0]: state[found.kept[0]] + 1e-3}
    with pytest.raises(Inconclusive, match="differs from the weights it should hold"):
        verify_identity(engine / MODEL_NAME, other)
    record = json.loads(read_metadata(engine / MODEL_NAME)[CALIBRATION])
    assert record["kept_fp32"] == found.kept
    assert record["prompts"] == {"erased": 3, "kept": 2, "empty": NUM_TEXTS["empty"]}
    assert record["after"]["relative_error"].keys() == TEXTS.keys()
    assert record["after"]["margin_ratio"] < record["before"]["margin_ratio"]
    assert record["layers"].keys() == linear_layers(source.model.denoiser).keys()
    report = measure_engine(source, engine)
    assert report.calibration == report.to_json()["calibration"] == record
    assert f"{len(found.kept)} of {found.num_layers} linear layers stay fp32" in report.line
    assert report.survival is not None
    assert found.kept[0] in {r.name for r in report.survival.layers if r.cosine > 1 - 1e-9}


def test_where_nothing_may_be_lost_there_is_no_engine(source: ExportSource, tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="no layer can be quantised") as caught:
        write_calibrated(source, tiny_engine(), tmp_path / "engine", {}, max_error=1e-9)
    assert "--max-error" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_cannot_be_written_costs_no_calibration(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Inconclusive("the disk is full", "free some space")

    monkeypatch.setattr(calibrate, "quantize_engine", full)
    monkeypatch.setattr(calibrate, "read_layers", lambda _: pytest.fail("layers were read"))
    with pytest.raises(Inconclusive, match="the disk is full"):
        write_calibrated(source, tiny_engine(), tmp_path / "engine", {})


def test_what_is_missing_is_said(source: ExportSource, tmp_path: Path) -> None:
    assert calibration_texts(source)["erased"] == ["an axe", "axe", "a big axe"]
    bare = replace(source, base=None, policies=(source.policy | {"concepts": []},))
    found = write_calibrated(bare, tiny_engine(), tmp_path / "engine", {}, max_error=9.0)
    assert found.line.endswith(
        "no erased phrasings: calibrated on kept texts and the empty prompt; "
        "no base: calibrated on the relative error alone"
    )
    assert found.after.margin_ratio is None
    whole = replace(found, has_base=True, texts=calibration_texts(source))
    assert whole.line == found.line.split("; no erased")[0]
    assert whole.to_json()["prompts_sha256"] != found.to_json()["prompts_sha256"]
