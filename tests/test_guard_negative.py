"""NEG: what diffusers makes of ``negative_prompt``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from guard_examples import DRAWS, TEXTS, TOLERANCE, distance, run_pipeline, trajectory
from tiny import tiny_backbone, tiny_pipeline
from torch import Tensor

from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


def pipeline_trajectory(folder: Path, negative_prompt: str | None) -> Tensor:
    latents: list[Tensor] = []

    def note(pipeline: Any, step: int, t: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
        latents.append(values["latents"].clone())
        return values

    prompts = None if negative_prompt is None else [negative_prompt] * len(DRAWS)
    run_pipeline(tiny_pipeline(folder), negative_prompt=prompts, callback_on_step_end=note)
    return torch.stack(latents)


def test_every_step_equals_that_of_diffusers(tmp_path: Path, backbone: Backbone) -> None:
    guard = make_guard("neg", TEXTS)
    found = trajectory(backbone, guard)
    assert guard.num_branches == 2
    assert torch.equal(found, pipeline_trajectory(tmp_path, ", ".join(TEXTS)))
    for planted in (TEXTS[0], None):
        assert distance(found, pipeline_trajectory(tmp_path, planted)) > 100 * TOLERANCE


def test_an_empty_negative_prompt_is_no_guard(backbone: Backbone) -> None:
    assert torch.equal(trajectory(backbone, make_guard("neg", [""])), trajectory(backbone, None))
