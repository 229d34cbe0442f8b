"""Knobs of the guards and the published presets, by the name that a policy gives.

``neg`` is a negative prompt, ``sld-*`` Safe Latent Diffusion (arXiv:2211.05105), ``sega*``
semantic guidance (arXiv:2301.12247). Presets hold numbers only: the texts to steer away from are
the caller's, so that no preset carries a term that the content rules refuse.

Imports no torch: policies are resolved from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from safediff.errors import UsageError
from safediff.policy.problems import did_you_mean

if TYPE_CHECKING:
    from safediff.policy.plan import GuardPlan


@dataclass(frozen=True, kw_only=True)
class NegParams:
    """A negative prompt has no knobs."""

    num_warmup_steps: ClassVar[int] = 0
    """It acts from the first step on."""

    def branch_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """One branch for all texts; it replaces that of the empty prompt."""
        return (", ".join(texts),)

    def num_branches(self, num_texts: int) -> int:
        """UNet passes of one picture and step: as many as without a guard."""
        return 2


@dataclass(frozen=True, kw_only=True)
class SldParams:
    """Settings of SLD (arXiv:2211.05105)."""

    num_warmup_steps: int
    """delta: the first steps stay unguided; their momentum is gathered all the same."""
    safety_scale: float
    """s_S."""
    threshold: float
    """lambda: elements whose e_c - e_s reaches it are far enough from the texts."""
    momentum_scale: float
    """s_m."""
    momentum_decay: float
    """beta_m."""

    def branch_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """One further branch for all texts."""
        return (", ".join(texts),)

    def num_branches(self, num_texts: int) -> int:
        """UNet passes of one picture and step."""
        return 3


@dataclass(frozen=True, kw_only=True)
class SegaParams:
    """Settings of SEGA (arXiv:2301.12247) for removal; the defaults are those of diffusers."""

    edit_scale: float = 5.0
    """s_e."""
    num_warmup_steps: int = 10
    """The first steps stay unguided; their momentum is gathered all the same."""
    threshold: float = 0.9
    """Quantile of |g|, per picture and channel, below which nothing is guided."""
    momentum_scale: float = 0.1
    """s_m."""
    momentum_decay: float = 0.4
    """beta. Published for the default only; the other presets take it over."""

    def branch_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """One further branch a text."""
        return tuple(texts)

    def num_branches(self, num_texts: int) -> int:
        """UNet passes of one picture and step."""
        return 2 + num_texts


GuardParams = NegParams | SldParams | SegaParams

PRESETS: Mapping[str, GuardParams] = {
    "neg": NegParams(),
    # diffusers' configuration has the scale 20 where the paper's table has 200.
    "sld-weak": SldParams(
        num_warmup_steps=15,
        safety_scale=20.0,
        threshold=0.0,
        momentum_scale=0.0,
        momentum_decay=0.0,
    ),
    "sld-weak-200": SldParams(
        num_warmup_steps=15,
        safety_scale=200.0,
        threshold=0.0,
        momentum_scale=0.0,
        momentum_decay=0.0,
    ),
    "sld-medium": SldParams(
        num_warmup_steps=10,
        safety_scale=1000.0,
        threshold=0.01,
        momentum_scale=0.3,
        momentum_decay=0.4,
    ),
    "sld-strong": SldParams(
        num_warmup_steps=7,
        safety_scale=2000.0,
        threshold=0.025,
        momentum_scale=0.5,
        momentum_decay=0.7,
    ),
    "sld-max": SldParams(
        num_warmup_steps=0,
        safety_scale=5000.0,
        threshold=1.0,
        momentum_scale=0.5,
        momentum_decay=0.7,
    ),
    "sega": SegaParams(),
    "sega-medium": SegaParams(edit_scale=4.0, momentum_scale=0.3),
    "sega-strong": SegaParams(
        edit_scale=7.0, num_warmup_steps=5, threshold=0.85, momentum_scale=0.5
    ),
    "sega-max": SegaParams(edit_scale=10.0, num_warmup_steps=0, threshold=0.75, momentum_scale=0.5),
}


def find_preset(name: str) -> GuardParams:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(
            f"unknown guard {name!r}{did_you_mean(name, PRESETS)}", f"use {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def planned_branches(guard: "GuardPlan | None", plain: int = 2) -> int:
    """UNet passes of one picture and step behind a policy's guard; ``plain``: without one."""
    return plain if guard is None else find_preset(guard.name).num_branches(len(guard.texts))
