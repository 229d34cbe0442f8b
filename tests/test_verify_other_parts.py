"""Pictures of a model are not counted for one with the same denoiser and other parts."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_policy import FEWER, QUICK, small_plan

from safediff.errors import UsageError
from safediff.gate.verdict import GateReport
from safediff.models.backbone import Backbone
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan, Plan
from safediff.verify.verification import Verification

HASHES: Mapping[str, str] = {"base": "b" * 64, "unet": "s" * 64}


@pytest.fixture(scope="module")
def base() -> Backbone:
    return load_backbone(ModelPlan(base="embedded"))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return small_plan(tmp_path, *QUICK, *FEWER)


def measured(plan: Plan, base: Backbone, model: Backbone, folder: Path) -> GateReport:
    with Verification(plan, base, "b" * 64, folder) as verification:
        return verification.measure("model", model, HASHES)[0]


def retold(base: Backbone) -> Backbone:
    """Another text encoder, as if its file had been replaced."""
    encoder = copy.deepcopy(base.text_encoder)
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    return replace(base, text_encoder=encoder)


def recoded(base: Backbone) -> Backbone:
    vae = copy.deepcopy(base.vae)
    with torch.no_grad():
        next(vae.decoder.parameters()).mul_(1.5)
    return replace(base, vae=vae)


def respaced(base: Backbone) -> Backbone:
    own = base.scheduler
    return replace(base, scheduler=type(own).from_config(own.config, timestep_spacing="trailing"))


def test_another_part_is_another_model(plan: Plan, base: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = measured(plan, base, base, folder)
    assert measured(plan, base, base, folder).results == first.results
    for change in (retold, recoded, respaced):
        with pytest.raises(UsageError, match="images/model: holds pictures of another model than"):
            measured(plan, base, change(base), folder)
        with pytest.raises(UsageError, match="images/base: holds pictures of another model than"):
            measured(plan, change(base), base, folder)
    other = measured(plan, base, retold(base), tmp_path / "other")
    assert other.model_sha256["parts"] != first.model_sha256["parts"]
    assert {**first.model_sha256, "parts": ""} == {**HASHES, "parts": ""}


def test_what_an_earlier_version_drew_is_not_counted(
    plan: Plan, base: Backbone, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    first = measured(plan, base, base, folder)
    noted = folder / "images" / "model" / "weights.json"
    found: dict[str, Any] = json.loads(noted.read_text(encoding="utf-8"))
    del found["parts"]
    noted.write_text(json.dumps(found, sort_keys=True) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="images/model: is of an earlier safediff") as said:
        measured(plan, base, base, folder)
    assert said.value.next_step == (
        f"choose another --out, or remove {folder / 'images'}: all pictures are drawn again"
    )
    for path in noted.parent.iterdir():
        path.unlink()
    assert measured(plan, base, base, folder).results == first.results
