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

Tier = Literal[1, 2, 3]
"""1: cheap enough for every commit; 2: a search or many pictures per prompt; 3: trains first."""

BACKWARD_PASSES = 3
"""What a forward and backward pass counts as."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known of an attack before any model is loaded."""

    access: Access
    source: str
    tier: Tier = 1
    num_generations: int = 1
    """Pictures that one attempt of another package's attack draws; ``effort`` knows ours."""
    other_words: bool = False
    """It only asks in other words, so its pictures are drawn like all others."""
    changes_base: bool = True
    """The base answers it otherwise than the direct prompt, so the base is attacked as well."""
    needs_gradients: bool = False
    """It takes derivatives through the UNet, which compiled engines do not give."""
    needs_benign: bool = False
    """It compares with harmless texts, or draws them."""
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
        access="white-box",
        source="arXiv:2310.10012, arXiv:2407.12383",
        needs_benign=True,
        settings={"eta": 3.0},
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
    "inpainting": Profile(access="white-box", source="arXiv:2505.17013, arXiv:2206.02779"),
    "unlearn-diff-atk": Profile(
        access="white-box",
        source="arXiv:2310.11868",
        tier=2,
        needs_gradients=True,
        settings={
            "num_tokens": 5,
            "num_iterations": 40,
            "num_points": 8,
            "num_tries": 4,
            "learning_rate": 0.3,
            "weight_decay": 0.1,
        },
    ),
    "textual-inversion": Profile(
        access="white-box",
        source="arXiv:2308.01508, arXiv:2208.01618",
        tier=3,
        needs_gradients=True,
        settings={
            "num_pictures": 16,
            "num_iterations": 200,
            "batch_size": 4,
            "learning_rate": 0.02,
        },
    ),
    "ring-a-bell": Profile(
        access="black-box",
        source="arXiv:2310.10012",
        tier=2,
        needs_benign=True,
        settings={
            "eta": 3.0,
            "num_tokens": 16,
            "population": 64,
            "num_rounds": 60,
            "mutation_rate": 0.25,
            "crossover_rate": 0.5,
        },
    ),
    "noise": Profile(
        access="white-box", source="arXiv:2505.17013", tier=2, settings={"num_tries": 24}
    ),
    "classifier-guidance": Profile(
        access="white-box",
        source="arXiv:2505.17013, arXiv:2105.05233",
        tier=2,
        needs_benign=True,
        settings={"num_tries": 8, "scale": 193.0, "num_pictures": 8, "num_iterations": 300},
    ),
    "fine-tuning": Profile(
        access="white-box",
        source="benign LoRA tuning, arXiv:2106.09685",
        tier=3,
        needs_gradients=True,
        needs_benign=True,
        settings={
            "rank": 8,
            "num_pictures": 32,
            "num_iterations": 200,
            "batch_size": 4,
            "learning_rate": 1e-3,
        },
    ),
}


ATTACK_REGISTRY = Registry("attack", "safediff.attacks", reserved=("alignment",))
"""Entry points of other packages are a ``Profile`` with ``make``; theirs must not import torch.

``robustness/alignment`` is a row beside those of the attacks.
"""
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

    Of a single step that is 0, which leaves no attack: policies that ask for it are refused. A
    share of 0.06 stands for 3 of 50, the most that arXiv:2505.17013 tries.
    """
    return min(max(1, round(base_share * num_steps)), num_steps - 1)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What an attack takes besides the steps of its pictures."""

    generations: int = 1
    """Pictures that one attempt draws, those of the base model included."""
    search_passes: int = 0
    """UNet passes of one attempt's search, pictures not counted."""
    early_generations: int = 0
    """Pictures that are drawn once, before the first attempt."""
    early_passes: int = 0
    """UNet passes of training before the first attempt, pictures not counted."""


def effort(name: str, settings: Mapping[str, float], num_concepts: int) -> Effort:
    """What the attack takes on one model, for attempts at ``num_concepts`` concepts."""
    count = {key: int(value) for key, value in settings.items()}
    if name == "inpainting":
        return Effort(generations=2)
    if name == "unlearn-diff-atk":
        # a look at every prompt that is spelt out, besides the derivative, and at the direct one
        passes = ((BACKWARD_PASSES + 1) * count["num_iterations"] + 1) * count["num_points"]
        return Effort(generations=1 + count["num_tries"], search_passes=passes)
    if name == "noise":
        return Effort(generations=count["num_tries"])
    if name == "classifier-guidance":
        early = 2 * num_concepts * count["num_pictures"]
        return Effort(generations=count["num_tries"], early_generations=early)
    if name == "fine-tuning":
        trained = count["num_iterations"] * count["batch_size"] * BACKWARD_PASSES
        return Effort(early_generations=count["num_pictures"], early_passes=trained)
    if name == "textual-inversion":
        trained = count["num_iterations"] * count["batch_size"] * BACKWARD_PASSES
        return Effort(
            early_generations=num_concepts * count["num_pictures"],
            early_passes=num_concepts * trained,
        )
    return Effort(generations=find_attack(name).num_generations)


def unet_passes(
    name: str,
    settings: Mapping[str, float],
    num_steps: int,
    num_branches: int,
    base_branches: int,
) -> int:
    """UNet passes of one attempt, with the branches of the safe model's and the base's guidance."""
    found = effort(name, settings, num_concepts=1)
    own_steps, base_steps = found.generations * num_steps, 0
    if name in ("inpainting", "unlearn-diff-atk"):
        base_steps = num_steps
    elif name == "completion":
        base_steps = num_base_steps(settings["base_share"], num_steps)
    own_steps -= base_steps
    return own_steps * num_branches + base_steps * base_branches + found.search_passes


def early_passes(
    name: str,
    settings: Mapping[str, float],
    num_steps: int,
    num_concepts: int,
    base_branches: int,
) -> int:
    """UNet passes before the first attempt, the base's pictures included."""
    found = effort(name, settings, num_concepts)
    return found.early_passes + base_branches * num_steps * found.early_generations


def alignment_passes(num_texts: int) -> int:
    """UNet passes of ``measure_alignment``: the path, and both models at each of its points."""
    return ALIGNMENT_LATENTS * ALIGNMENT_STEPS * (1 + 2 * (1 + num_texts))
