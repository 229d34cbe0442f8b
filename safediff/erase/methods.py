"""Erasers by the name that a policy gives: their papers and presets. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safediff.erase.closed_form.params import (
    RECE_PRESETS,
    SPEED_PRESETS,
    UCE_PRESETS,
    ReceParams,
    SpeedParams,
    UceParams,
)
from safediff.erase.knobs import resolve_knobs
from safediff.erase.params import PRESETS, DistilParams, check_together

EraserParams = DistilParams | UceParams | ReceParams | SpeedParams


@dataclass(frozen=True, kw_only=True)
class Method:
    """An eraser; its first preset is its default."""

    title: str
    paper: str
    presets: Mapping[str, EraserParams]


METHODS: Mapping[str, Method] = {
    "sdd": Method(title="SDD", paper="arXiv:2307.05977", presets=PRESETS["sdd"]),
    "esd-x": Method(title="ESD-x", paper="arXiv:2303.07345", presets=PRESETS["esd-x"]),
    "esd-u": Method(title="ESD-u", paper="arXiv:2303.07345", presets=PRESETS["esd-u"]),
    "uce": Method(title="UCE", paper="arXiv:2308.14761", presets=UCE_PRESETS),
    "rece": Method(title="RECE", paper="arXiv:2407.12383", presets=RECE_PRESETS),
    "speed": Method(title="SPEED", paper="arXiv:2503.07392", presets=SPEED_PRESETS),
}


def resolve(method: str, preset: str, options: Mapping[str, Any]) -> EraserParams:
    """The method's preset with the policy's overrides.

    Raises:
        UsageError: an unknown preset or knob, or a value of the wrong type or range.
    """
    params = resolve_knobs(method, METHODS[method].presets, preset, options)
    if isinstance(params, DistilParams):
        check_together(params)
    return params
