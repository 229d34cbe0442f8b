"""SLD: equal to diffusers' own pipeline, step by step; the safety weight by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.pipelines.deprecated.stable_diffusion_safe import (
    SafetyConfig,
    StableDiffusionPipelineSafe,
)
from guard_examples import SLD, TEXTS, TOLERANCE, diffusers_trajectory, distance, trajectory
from tiny import tiny_backbone, tiny_pipeline
from torch import Tensor

from safediff.guard.load import make_guard
from safediff.guard.params import PRESETS, SldParams
from safediff.guard.sld import safety_weight
from safediff.models.backbone import Backbone

DIFFUSERS = {
    "sld-weak": SafetyConfig.WEAK,
    "sld-weak-200": {**SafetyConfig.WEAK, "sld_guidance_scale": 200},  # the paper's table
    "sld-medium": SafetyConfig.MEDIUM,
    "sld-strong": SafetyConfig.STRONG,
    "sld-max": SafetyConfig.MAX,
}

pytestmark = pytest.mark.filterwarnings("ignore:The decode_latents method:FutureWarning")


def safe_pipeline(folder: Path, scheduler: Any = None) -> Any:
    parts = tiny_pipeline(folder).components
    del parts["image_encoder"]
    parts["scheduler"] = scheduler or parts["scheduler"]
    pipeline = StableDiffusionPipelineSafe(**parts, requires_safety_checker=False)
    pipeline.safety_concept = ", ".join(TEXTS)
    return pipeline


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def found(backbone: Backbone) -> dict[str, Tensor]:
    return {name: trajectory(backbone, make_guard(name, TEXTS)) for name in SLD}


@pytest.mark.parametrize("name", SLD)
def test_every_step_equals_that_of_diffusers(
    tmp_path: Path, found: dict[str, Tensor], name: str
) -> None:
    expected = diffusers_trajectory(safe_pipeline(tmp_path), **DIFFUSERS[name])
    assert len(expected) == 20
    assert distance(found[name], expected) <= TOLERANCE
    # Planted: the numbers of any other preset would be noticed.
    for other in set(SLD) - {name}:
        assert distance(found[other], expected) > 100 * TOLERANCE


# diffusers' Euler scheduler hands tensors to numpy in a way that numpy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_schedulers_that_scale_the_latents(tmp_path: Path, backbone: Backbone) -> None:
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1)
    assert scheduler.init_noise_sigma > 2
    euler = replace(backbone, scheduler=scheduler)
    found = trajectory(euler, make_guard("sld-strong", TEXTS))
    pipeline = safe_pipeline(tmp_path, scheduler)
    expected = diffusers_trajectory(pipeline, **DIFFUSERS["sld-strong"])
    assert distance(found, expected) <= TOLERANCE
    assert distance(found, trajectory(euler, None)) > 100 * TOLERANCE


def test_texts_share_one_branch(backbone: Backbone, found: dict[str, Tensor]) -> None:
    joined = make_guard("sld-medium", [", ".join(TEXTS)])
    assert torch.equal(trajectory(backbone, joined), found["sld-medium"])
    assert joined.num_branches == make_guard("sld-medium", TEXTS).num_branches == 3


def test_weight_by_hand() -> None:
    params = PRESETS["sld-medium"]
    assert isinstance(params, SldParams)
    e_s = torch.zeros(6)
    # Far below, just below, at and above lambda = 0.01; 1000 |d| is cut at 1.
    e_c = torch.tensor([-2.0, -0.0005, 0.0, 0.0002, 0.01, 3.0])
    expected = torch.tensor([1.0, 0.5, 0.0, 0.2, 0.0, 0.0])
    torch.testing.assert_close(safety_weight(e_c, e_s, params), expected)
    shifted = safety_weight(e_c + 5, e_s + 5, params)
    torch.testing.assert_close(shifted[[0, 2, 5]], expected[[0, 2, 5]])
