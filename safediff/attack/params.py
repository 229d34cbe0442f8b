"""Attacks by the name that a policy gives: what each needs and costs, and its settings.

Imports no torch: policies are resolved from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from safediff.errors import Inconclusive
from safediff.registry import Registry

ALIGNMENT_LATENTS = 4
ALIGNMENT_STEPS = 8
"""Where ``safediff.attack.alignment`` compares noise predictions."""

Access = Literal["black-box", "white-box"]
"""black-box: whoever may send it prompts; white-box: whoever runs it, so feeds it text states or
latents and reads its weights."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known of an attack before any model is loaded."""

    access: Access
    source: str
    num_generations: int = 1
    """Pictures that one attempt draws, those of the base model included."""
    other_words: bool = False
    """It only asks in other words, so its pictures are drawn like all others."""
    changes_base: bool = True
    """The base answers it otherwise than the direct prompt, so the base is attacked as well."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Default of each setting that a policy may change."""
    make: str = ""
    """``module:function`` of an attack of another package: from ``models``, ``concepts`` and the
    settings to a ``safediff.attack.base.Attack``; imported when it is run."""

    def __post_init__(self) -> None:
        """Refuse what could not be carried out or not be counted.

        Raises:
            ValueError: fewer than one picture an attempt, or both words and a function.
        """
        if self.num_generations < 1:
            raise ValueError("an attempt draws at least one picture")
        if self.make and self.other_words:
            raise ValueError("an attack in other words needs no function")


ATTACKS: Mapping[str, Profile] = {
    "paraphrase": Profile(
        access="black-box", source="prompts reworded and misspelt", other_words=True
    ),
    "cached": Profile(access="black-box", source="prompts of a file", other_words=True),
    "ring-a-bell-embedding": Profile(
        access="white-box", source="arXiv:2310.10012, arXiv:2407.12383", settings={"eta": 3.0}
    ),
    "closed-form": Profile(
        access="white-box",
        source="arXiv:2407.12383",
        changes_base=False,
        settings={"reg": 0.1},
    ),
    "completion": Profile(
        access="white-box",
        source="arXiv:2505.17013",
        changes_base=False,
        settings={"base_share": 0.06},
    ),
    "inpainting": Profile(
        access="white-box", source="arXiv:2505.17013, arXiv:2206.02779", num_generations=2
    ),
}


ATTACK_REGISTRY = Registry("attack", "safediff.attacks")
"""Entry points of other packages are a ``Profile`` with ``make``; theirs must not import torch."""
for _name in ATTACKS:
    ATTACK_REGISTRY.register(_name)


def find_attack(name: str) -> Profile:
    """The attack of that name, ours or another package's.

    Raises:
        UsageError: there is none.
        Inconclusive: the package that adds it cannot be imported, or adds something else.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    found = ATTACK_REGISTRY.load(name)
    if not isinstance(found, Profile) or not found.make:
        raise Inconclusive(
            f"attack {name!r} is no safediff.attack.params.Profile with make",
            "see docs/extending.md",
        )
    return found


def num_base_steps(base_share: float, num_steps: int) -> int:
    """Steps that the base model runs before the safe one takes over: at least 1, never all.

    A share of 0.06 stands for 3 of 50, the most that arXiv:2505.17013 tries.
    """
    return min(max(1, round(base_share * num_steps)), num_steps - 1)


def unet_passes(name: str, settings: Mapping[str, float], num_steps: int, num_branches: int) -> int:
    """UNet passes of one attempt; ``num_branches`` are those of the safe model's guidance."""
    own_steps, base_steps = num_steps, 0
    if name == "inpainting":
        base_steps = num_steps
    elif name == "completion":
        base_steps = num_base_steps(settings["base_share"], num_steps)
        own_steps -= base_steps
    return own_steps * num_branches + base_steps * 2


def alignment_passes(num_texts: int) -> int:
    """UNet passes of ``measure_alignment``: the path, and both models at each of its points."""
    return ALIGNMENT_LATENTS * ALIGNMENT_STEPS * (1 + 2 * (1 + num_texts))
