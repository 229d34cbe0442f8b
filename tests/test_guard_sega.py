"""SEGA: equal to diffusers' own pipeline, step by step; which elements are guided, by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.pipelines.deprecated.semantic_stable_diffusion import (
    SemanticStableDiffusionPipeline,
)
from guard_examples import SEGA, TEXTS, TOLERANCE, diffusers_trajectory, distance, trajectory
from tiny import tiny_backbone, tiny_pipeline
from torch import Tensor

from safediff.guard.load import make_guard
from safediff.guard.params import SegaParams
from safediff.guard.sega import removal
from safediff.models.backbone import Backbone

DIFFUSERS: dict[str, dict[str, float]] = {
    "sega": {},  # the defaults of diffusers
    "sega-medium": {"edit_guidance_scale": 4, "edit_momentum_scale": 0.3},
    "sega-strong": {
        "edit_guidance_scale": 7,
        "edit_warmup_steps": 5,
        "edit_threshold": 0.85,
        "edit_momentum_scale": 0.5,
    },
    "sega-max": {
        "edit_guidance_scale": 10,
        "edit_warmup_steps": 0,
        "edit_threshold": 0.75,
        "edit_momentum_scale": 0.5,
    },
}


def semantic_trajectory(
    folder: Path, name: str, scheduler: Any = None, texts: tuple[str, ...] = TEXTS
) -> Tensor:
    parts = tiny_pipeline(folder).components
    del parts["image_encoder"]
    parts["scheduler"] = scheduler or parts["scheduler"]
    pipeline = SemanticStableDiffusionPipeline(**parts, requires_safety_checker=False)
    return diffusers_trajectory(
        pipeline, editing_prompt=list(texts), reverse_editing_direction=True, **DIFFUSERS[name]
    )


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def found(backbone: Backbone) -> dict[str, Tensor]:
    return {name: trajectory(backbone, make_guard(name, TEXTS)) for name in SEGA}


@pytest.mark.parametrize("name", SEGA)
def test_every_step_equals_that_of_diffusers(
    tmp_path: Path, found: dict[str, Tensor], name: str
) -> None:
    expected = semantic_trajectory(tmp_path, name)
    assert len(expected) == 20
    assert distance(found[name], expected) <= TOLERANCE
    # Planted: the numbers of any other preset would be noticed.
    for other in set(SEGA) - {name}:
        assert distance(found[other], expected) > 100 * TOLERANCE


@pytest.mark.parametrize("texts", [("sword",), ("sword", "kitchen knife", "rifle")])
def test_any_number_of_texts(tmp_path: Path, backbone: Backbone, texts: tuple[str, ...]) -> None:
    guard = make_guard("sega-strong", texts)
    assert guard.num_branches == 2 + len(texts)
    expected = semantic_trajectory(tmp_path, "sega-strong", texts=texts)
    assert distance(trajectory(backbone, guard), expected) <= TOLERANCE


# diffusers' solver hands tensors to numpy in a way that numpy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_other_schedulers(tmp_path: Path, backbone: Backbone) -> None:
    scheduler = DPMSolverMultistepScheduler(beta_schedule="scaled_linear", steps_offset=1)
    solver = replace(backbone, scheduler=scheduler)
    found = trajectory(solver, make_guard("sega", TEXTS))
    assert distance(found, semantic_trajectory(tmp_path, "sega", scheduler)) <= TOLERANCE
    assert distance(found, trajectory(solver, None)) > 100 * TOLERANCE


def test_only_the_largest_elements_of_a_picture_and_channel_are_guided() -> None:
    generator = torch.Generator().manual_seed(0)
    e_s = torch.randn(2, 3, 10, 10, generator=generator)
    e_s[1, 1] *= 1000  # another picture and channel must not raise the limit of the rest
    params = SegaParams(threshold=0.9, edit_scale=5.0)
    g = removal(torch.zeros_like(e_s), e_s, params)
    kept = g != 0
    assert kept.flatten(2).sum(2).tolist() == [[10, 10, 10], [10, 10, 10]]
    torch.testing.assert_close(g[kept], -5 * e_s[kept])
    for row in range(2):
        for channel in range(3):
            size, taken = e_s[row, channel].abs(), kept[row, channel]
            assert size[taken].min() > size[~taken].max()
