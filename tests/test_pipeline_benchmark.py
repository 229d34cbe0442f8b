"""The benchmark of whole pictures, on the tiny release: it measures what draws the same."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmark_scripts import benchmark_script
from serving_examples import exported, release

from safediff.errors import UsageError
from safediff.serve.pipeline import SafePipeline, Settings


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    return benchmark_script("pipeline")


def test_three_systems_are_measured(
    pipeline: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pipeline.json"
    argv = ["pipeline.py", exported(), "--out", out, "--batches", 2, "--rounds", 2]
    monkeypatch.setattr(sys, "argv", [str(a) for a in [*argv, "--num-steps", 2, "--threads", 1]])
    monkeypatch.setattr(pipeline, "PAUSE_S", 0)
    pipeline.main()
    found = json.loads(out.read_text())
    rows = found["batches"]["2"]
    assert list(rows) == ["torch eager", "ONNX UNet", "full ONNX"]
    for row in rows.values():
        for part in ("images_per_s", "times_eager"):
            assert 0 < row[part]["min"] <= row[part]["median"] <= row[part]["max"]
        assert row["max_levels"] <= 1
    assert set(rows["torch eager"]["times_eager"].values()) == {1.0}
    assert found["settings"]["rounds"] == 2


def test_a_system_that_draws_something_else_is_not_measured(pipeline: ModuleType) -> None:
    opened = pipeline.systems(exported(), 1, 2, None)
    wrong = opened["full ONNX"]
    original = wrong.draw
    wrong.draw = lambda *given: original(*given).flip(-1)
    with pytest.raises(RuntimeError, match="full ONNX draws something else"):
        pipeline.measure(opened, 2, Settings(2, 5.0), 1)


def test_the_systems_are_what_they_are_called(pipeline: ModuleType) -> None:
    opened: dict[str, SafePipeline] = pipeline.systems(exported(), 1, 2, None)
    kinds = {
        name: [type(part).__name__ for part in (p.backbone.denoiser, p.backbone.vae)]
        for name, p in opened.items()
    }
    assert kinds == {
        "torch eager": ["UNet2DConditionModel", "AutoencoderKL"],
        "ONNX UNet": ["ExportedUNet", "AutoencoderKL"],
        "full ONNX": ["ExportedUNet", "ExportedDecoder"],
    }
    with pytest.raises(UsageError, match="holds no engines of all parts"):
        pipeline.systems(release(), 1, 2, None)
    with pytest.raises(RuntimeError, match="something else"):
        pipeline.require_same("x", torch.zeros(3), torch.full((3,), 2))
