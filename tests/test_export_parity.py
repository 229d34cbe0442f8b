"""Engines that hold the verified weights pass; all others fail."""

import json
from math import inf
from pathlib import Path

import pytest
import torch
from tiny import perturb, tiny_backbone, tiny_engine, tiny_unet
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.export.parity import (
    TIMESTEPS,
    Denoise,
    measure_margin_ratio,
    measure_parity,
)
from safediff.export.runtime import ExportedUNet
from safediff.models.backbone import Backbone, Condition

Z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def condition(safe: Backbone) -> Condition:
    return safe.encode(["a hammer", "a knife", ""])


def engine(safe: Backbone, folder: Path) -> Denoise:
    return safe.with_denoiser(ExportedUNet(folder, num_threads=1)).denoise


def test_an_engine_of_the_same_weights_passes(safe: Backbone, condition: Condition) -> None:
    parity = measure_parity(
        engine(safe, tiny_engine()), safe.denoise, Z, condition, precision="fp32"
    )
    assert parity.passed
    assert 0 < parity.worst_max_abs < 1e-4
    assert tuple(row.timestep for row in parity.timesteps) == TIMESTEPS
    assert parity.num_samples == 3
    data = parity.to_json()
    assert data["passed"] is True
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_half_precision_has_limits_of_its_own(safe: Backbone, condition: Condition) -> None:
    half = engine(safe, tiny_engine(False, "fp16", 23))
    assert measure_parity(half, safe.denoise, Z, condition, precision="fp16").passed
    assert not measure_parity(half, safe.denoise, Z, condition, precision="fp32").passed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_of_slightly_other_weights_fails(
    safe: Backbone, condition: Condition, precision: str
) -> None:
    other = safe.with_denoiser(perturb(tiny_unet(), seed=4, scale=0.01))
    parity = measure_parity(
        engine(safe, tiny_engine()), other.denoise, Z, condition, precision=precision
    )
    assert not parity.passed


def wrong_at_one_timestep(right: Denoise) -> Denoise:
    def denoise(z: Tensor, t: Tensor, c: Condition) -> Tensor:
        eps = right(z, t, c)
        return eps * 1.2 if int(t) == 261 else eps

    return denoise


def test_one_wrong_timestep_is_enough(safe: Backbone, condition: Condition) -> None:
    parity = measure_parity(
        wrong_at_one_timestep(safe.denoise), safe.denoise, Z, condition, precision="fp16"
    )
    assert [row.within(parity.limits) for row in parity.timesteps] == [
        True,
        True,
        True,
        False,
        True,
    ]
    assert not parity.passed


def test_predictions_that_are_not_finite_fail(safe: Backbone, condition: Condition) -> None:
    def broken(z: Tensor, t: Tensor, c: Condition) -> Tensor:
        return torch.full_like(z, torch.nan)

    parity = measure_parity(broken, safe.denoise, Z, condition, precision="fp16")
    assert not parity.passed
    assert parity.worst_max_abs == inf
    assert parity.to_json()["timesteps"][0]["max_abs"] is None
    assert measure_margin_ratio(broken, safe.denoise, base(safe), Z, condition) == inf


def base(safe: Backbone) -> Denoise:
    return safe.with_denoiser(perturb(tiny_unet(), seed=7, scale=0.02)).denoise


def test_margin_ratio_tells_the_safe_from_the_base(safe: Backbone, condition: Condition) -> None:
    right = measure_margin_ratio(
        engine(safe, tiny_engine()), safe.denoise, base(safe), Z, condition
    )
    assert right < 1e-3
    wrong = measure_margin_ratio(base(safe), safe.denoise, base(safe), Z, condition)
    assert wrong == pytest.approx(1.0)
    kept = {"precision": "fp32", "timesteps": (501,)}
    for ratio, passed in ((right, True), (wrong, False)):
        parity = measure_parity(
            safe.denoise, safe.denoise, Z, condition, margin_ratio=ratio, **kept
        )
        assert parity.passed is passed


def test_without_an_edit_there_is_no_margin(safe: Backbone, condition: Condition) -> None:
    with pytest.raises(Inconclusive, match="nothing was erased"):
        measure_margin_ratio(safe.denoise, safe.denoise, safe.denoise, Z, condition)
