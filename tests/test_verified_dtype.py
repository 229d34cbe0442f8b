"""Releases are opened, measured and exported in the precision that was verified."""

from pathlib import Path

import pytest
import torch
from serving_examples import base_folder, release, write_half
from tiny import tiny_engine

from safediff.export.runtime import SafePipeline
from safediff.export.to_onnx import swap_weights
from safediff.models.load import load_backbone
from safediff.models.patch import state_sha256
from safediff.policy.plan import ModelPlan
from safediff.verify.drift import null_drift
from safediff.workflow.export import metadata, swap
from safediff.workflow.export_source import open_source
from safediff.workflow.subject import open_subject


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that was verified in bfloat16; do not write to it."""
    return write_half(tmp_path_factory.mktemp("half") / "r")


def test_a_release_is_opened_in_the_precision_that_was_verified(half: Path) -> None:
    served = SafePipeline.from_release(half, num_threads=1).backbone
    opened = open_subject(str(half)).models["release"]
    for backbone in (served, opened):
        parts = (backbone.denoiser, backbone.text_encoder, backbone.vae)
        assert {part.dtype for part in parts} == {torch.bfloat16}
    whole = SafePipeline.from_release(release(), engine="torch", num_threads=1).backbone
    assert whole.denoiser.dtype == torch.float32
    (named,) = open_subject(str(base_folder()), dtype="bfloat16").models.values()
    assert named.denoiser.dtype == torch.bfloat16


def test_drift_of_a_release_is_measured_in_its_own_precision(half: Path) -> None:
    base = load_backbone(ModelPlan(base=str(half), dtype="bfloat16"))
    opened = open_subject(str(half)).models["release"]
    assert [drift for _, drift in null_drift(base, opened)] == [0.0] * 10
    whole = load_backbone(ModelPlan(base=str(half)))
    found = [drift for pair in ((base, whole), (whole, base)) for _, drift in null_drift(*pair)]
    assert 0 < max(found) < 0.05


def test_an_engine_of_its_weights_can_be_swapped_into(half: Path, tmp_path: Path) -> None:
    source, engine = open_source(half), tmp_path / "engine"
    swap_weights(
        tiny_engine(), engine, source.model.denoiser.state_dict(), metadata=metadata(source)
    )
    assert swap(half, engine, tmp_path / "again").passed


def test_hashes_in_another_type() -> None:
    halves = {"a": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor([1])}
    whole = {"a": torch.ones(2), "n": torch.tensor([1])}
    assert state_sha256(halves, torch.float32) == state_sha256(whole) != state_sha256(halves)
