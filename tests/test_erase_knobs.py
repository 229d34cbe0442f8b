"""Knobs: overrides of a preset, their types and ranges; the presets of the closed-form erasers."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from safediff.erase.closed_form.params import RECE_PRESETS, SPEED_PRESETS, UCE_PRESETS
from safediff.erase.knobs import Bounds, resolve_knobs
from safediff.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Oven:
    heat: Annotated[float, Bounds(above=0, below=300)] = 180.0
    trays: Annotated[int, Bounds(at_least=1)] = 2
    mode: Literal["top", "both"] = "both"
    turns: Literal[1, 2] = 1
    fan: bool = True
    label: str = "oven"
    shift: float = 0.0


PRESETS = {"bread": Oven(heat=240.0), "cake": Oven()}


def resolved(**options: Any) -> Oven:
    return resolve_knobs("bake", PRESETS, "bread", options)


def test_overrides_lie_on_the_preset() -> None:
    assert resolved() == Oven(heat=240.0)
    assert resolved(trays=1, mode="top", fan=False, label="") == Oven(
        heat=240.0, trays=1, mode="top", fan=False, label=""
    )
    assert resolved(heat=200).heat == 200  # a policy may leave the decimal point out
    assert resolved(shift=-3.5, turns=2) == Oven(heat=240.0, shift=-3.5, turns=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heat": "hot"}, "erase.options.heat: 'hot' is not a number"),
        ({"heat": True}, "erase.options.heat: True is not a number"),
        ({"heat": 0}, "erase.options.heat: must be above 0 and below 300, not 0"),
        ({"heat": 300.0}, "erase.options.heat: must be above 0 and below 300, not 300.0"),
        ({"heat": math.nan}, "erase.options.heat: must be above 0 and below 300, not nan"),
        ({"shift": math.inf}, "erase.options.shift: must be finite, not inf"),
        ({"trays": 0}, "erase.options.trays: must be at least 1, not 0"),
        ({"trays": 1.0}, "erase.options.trays: 1.0 is not int"),
        ({"trays": True}, "erase.options.trays: True is not int"),
        ({"mode": "side"}, "erase.options.mode: 'side' is not top or both"),
        ({"turns": True}, "erase.options.turns: True is not 1 or 2"),
        ({"fan": 1}, "erase.options.fan: 1 is not bool"),
        ({"label": None}, "erase.options.label: None is not str"),
    ],
)
def test_wrong_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(**options)
    assert str(caught.value) == message


def test_unknown_knob_and_preset_name_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown knob 'tray' of bake") as caught:
        resolved(tray=1)
    assert caught.value.next_step == "known: fan, heat, label, mode, shift, trays, turns"
    with pytest.raises(UsageError, match="bake has no preset 'pie'") as caught:
        resolve_knobs("bake", PRESETS, "pie", {})
    assert caught.value.next_step == "use bread, cake"


def test_published_settings() -> None:
    uce = UCE_PRESETS["paper"]
    assert (uce.tokens, uce.guide, uce.matrices) == ("last", "", "kv")
    assert (uce.erase_scale, uce.keep_scale, uce.ridge) == (1.0, 1.0, 0.5)
    published = {"nudity": (0.1, 3), "i2p": (0.1, 2), "hard": (1e-3, 1), "easy": (0.1, 1)}
    for name, (reg, num_epochs) in published.items():
        rece = RECE_PRESETS[name]
        assert (rece.reg, rece.num_epochs) == (reg, num_epochs)
        assert (rece.repeat_guide, rece.repeat_keep, rece.repeat_tokens) == (" ", "guide", "all")
        repeated = (rece.repeat_erase_scale, rece.repeat_keep_scale, rece.repeat_ridge)
        assert repeated == (1.0, 0.1, 0.1)
    objects, nudity = SPEED_PRESETS["paper"], SPEED_PRESETS["nudity"]
    for preset, r, slack in ((objects, 1.0, 0.0), (nudity, 0.7, 0.5)):
        assert (preset.ridge, preset.pin_slack, preset.matrices) == (r, slack, "v")
        assert (preset.threshold, preset.num_centres, preset.num_augment) == (0.1, 3, 10)
        assert (preset.influence_filter, preset.num_directions, preset.anchor) == (True, 1, "")
    assert (objects.tokens, objects.retain) == ("last", "keep")
    assert (nudity.tokens, nudity.retain) == ("after_start", "null")
