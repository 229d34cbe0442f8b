"""Erasers by the name that a policy gives: their papers and presets. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, Protocol

from safediff.erase.closed_form.params import (
    RECE_PRESETS,
    SPEED_PRESETS,
    UCE_PRESETS,
    SpeedParams,
)
from safediff.erase.knobs import resolve_knobs
from safediff.erase.params import PRESETS, DistilParams, check_together
from safediff.errors import Inconclusive
from safediff.policy.plan import ErasePlan
from safediff.registry import Registry


class EraserParams(Protocol):
    """A frozen dataclass of settings; another package brings one of its own."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """An eraser; its first preset is its default."""

    title: str
    paper: str
    presets: Mapping[str, EraserParams]
    solve: str = ""
    """``module:function`` of an eraser of another package: from the base model, the concepts, the
    kept texts, the settings and the seed to a ``Patch``; imported when it is run."""

    def __post_init__(self) -> None:
        """Refuse what a policy could not choose from.

        Raises:
            ValueError: no preset, or one that is no dataclass.
        """
        if not self.presets or not all(map(is_dataclass, self.presets.values())):
            raise ValueError(f"{self.title}: presets are frozen dataclasses, one at least")


METHODS: Mapping[str, Method] = {
    "sdd": Method(title="SDD", paper="arXiv:2307.05977", presets=PRESETS["sdd"]),
    "esd-x": Method(title="ESD-x", paper="arXiv:2303.07345", presets=PRESETS["esd-x"]),
    "esd-u": Method(title="ESD-u", paper="arXiv:2303.07345", presets=PRESETS["esd-u"]),
    "uce": Method(title="UCE", paper="arXiv:2308.14761", presets=UCE_PRESETS),
    "rece": Method(title="RECE", paper="arXiv:2407.12383", presets=RECE_PRESETS),
    "speed": Method(title="SPEED", paper="arXiv:2503.07392", presets=SPEED_PRESETS),
}


ERASERS = Registry("eraser", "safediff.erasers")
"""Entry points of other packages are a ``Method`` with ``solve``; theirs must not import torch."""
for _name in METHODS:
    ERASERS.register(_name)


def find_method(name: str) -> Method:
    """The eraser of that name, ours or another package's.

    Raises:
        UsageError: there is none.
        Inconclusive: the package that adds it cannot be imported, or adds something else.
    """
    if name in METHODS:
        return METHODS[name]
    found = ERASERS.load(name)
    if not isinstance(found, Method) or not found.solve:
        raise Inconclusive(
            f"eraser {name!r} is no safediff.erase.methods.Method with solve",
            "see docs/extending.md",
        )
    return found


def resolve(method: str, preset: str, options: Mapping[str, Any]) -> EraserParams:
    """The method's preset with the policy's overrides.

    Raises:
        UsageError: an unknown preset or knob, or a value of the wrong type or range.
    """
    params = resolve_knobs(method, find_method(method).presets, preset, options)
    if isinstance(params, DistilParams):
        check_together(params)
    return params


def settings_of(erase: ErasePlan) -> EraserParams:
    """``resolve`` with the plan's seed, where the settings hold one and the policy sets no other.

    Raises:
        UsageError: see ``resolve``.
    """
    params = resolve(erase.method, erase.preset, erase.options)
    if isinstance(params, SpeedParams) and "seed" not in erase.options:
        return replace(params, seed=erase.seed)
    return params
