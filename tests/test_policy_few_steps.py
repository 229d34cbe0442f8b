"""Models of few steps: what a policy says that does not go with them is noted."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_policy import small_plan

BASE = "model: {base: embedded}"
LCM = {"_class_name": "LCMScheduler"}
TURBO = {
    "_class_name": "EulerAncestralDiscreteScheduler",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": False,
}
FEW = (
    ("guidance_scale: 5.0", "guidance_scale: 0.0"),
    ("reuse: 2,", "reuse: 2, rollout_scheduler: model, loss_timestep: step,"),
)


def notes(folder: Path, config: Any, *edits: tuple[str, str], more: str = "") -> list[str]:
    """Of the small policy on a folder with this configuration of its steps."""
    (folder / "model" / "scheduler").mkdir(parents=True)
    (folder / "model" / "model_index.json").write_text("{}")
    (folder / "model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    model = (BASE, f"model: {{base: ./model{more}}}")
    found = small_plan(folder, model, *edits).notes
    return [note for note in found if "made for few steps" in note]


@pytest.mark.parametrize(
    ("config", "name"),
    [(LCM, "LCMScheduler"), (TURBO, "EulerAncestralDiscreteScheduler with trailing timesteps")],
)
def test_settings_for_many_steps_are_noted(tmp_path: Path, config: Any, name: str) -> None:
    many = ("num_steps: 4, guidance", "num_steps: 16, guidance")
    sampling, erase = notes(tmp_path, config, many)
    assert sampling.startswith(f"the model's steps are those of {name}, made for few steps")
    assert sampling.endswith("verify.sampling has 16 steps at guidance 5")
    assert erase.endswith("should say rollout_scheduler: model and loss_timestep: step")


def test_settings_for_few_steps_are_not(tmp_path: Path) -> None:
    assert notes(tmp_path, TURBO, *FEW) == []


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"},
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
        {**TURBO, "rescale_betas_zero_snr": True},
        [],
    ],
)
def test_other_models_are_not(tmp_path: Path, config: Any) -> None:
    assert notes(tmp_path, config) == []


def test_what_the_policy_draws_with_counts(tmp_path: Path) -> None:
    assert len(notes(tmp_path / "a", TURBO, more=", scheduler: ddim")) == 0
    assert (
        len(notes(tmp_path / "b", {"_class_name": "DDIMScheduler"}, more=", scheduler: lcm")) == 2
    )
