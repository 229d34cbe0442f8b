"""Presets: their names, and that every one of their numbers matters."""

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from guard_examples import SEGA, SLD, TEXTS, distance, guide, predictions
from tiny import tiny_backbone
from torch import Tensor

from safediff.errors import UsageError
from safediff.guard.load import make_guard
from safediff.guard.params import PRESETS, GuardParams, SegaParams, SldParams, find_preset
from safediff.models.backbone import Backbone
from safediff.policy.schema import GuardName

OTHER: dict[str, float] = {
    "num_warmup_steps": 3,
    "safety_scale": 50.0,
    "edit_scale": 2.0,
    "threshold": 0.05,
    "momentum_scale": 0.2,
    "momentum_decay": 0.2,
}
KNOBS = [(name, knob.name) for name in (*SLD, *SEGA) for knob in fields(PRESETS[name])]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


def test_policies_may_name_every_preset() -> None:
    assert get_args(GuardName) == tuple(PRESETS)
    assert len(SLD) == 5
    assert len(SEGA) == 4
    assert len(KNOBS) == 9 * 5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sld-medum", "; did you mean 'sld-medium'?"),
        ("negative", ""),
        ("Sega", "; did you mean 'sega'?"),
    ],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_preset(name)
    assert str(caught.value) == f"unknown guard {name!r}{hint}"
    assert caught.value.next_step == f"use {', '.join(PRESETS)}"


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_knob_changes_the_result(backbone: Backbone, name: str, knob: str) -> None:
    guard: Any = make_guard(name, TEXTS)
    given = predictions(guard, 2)

    def guided_by(params: Any) -> Tensor:
        return guide(backbone, replace(guard, params=params), given)

    params = guard.params
    if knob == "momentum_decay" and params.momentum_scale == 0:
        # Without momentum there is nothing to decay, so the published 0 is idle.
        idle = replace(params, momentum_decay=OTHER[knob])
        assert torch.equal(guided_by(params), guided_by(idle))
        params = replace(params, momentum_scale=0.3)
    changed = replace(params, **{knob: OTHER[knob]})
    assert distance(guided_by(params), guided_by(changed)) > 1e-2


@pytest.mark.parametrize(
    ("params", "num_branches", "branches"),
    [
        (PRESETS["neg"], 2, ("a, b, c",)),
        (PRESETS["sld-max"], 3, ("a, b, c",)),
        (PRESETS["sega"], 5, ("a", "b", "c")),
    ],
)
def test_branches(params: GuardParams, num_branches: int, branches: tuple[str, ...]) -> None:
    assert params.num_branches(3) == num_branches
    assert params.branch_texts(["a", "b", "c"]) == branches


def test_presets_are_distinct() -> None:
    for family in (SldParams, SegaParams):
        members = [p for p in PRESETS.values() if isinstance(p, family)]
        assert len(set(members)) == len(members)
