"""Ring-A-Bell in embedding space (Tsai et al. 2023, arXiv:2310.10012; RECE's variant).

E is the text encoder, p the prompt, (u_j, b_j) pairs of prompts that differ in one text: u_j names
the concept, b_j something harmless. The attack reads

    E(p) + eta dir,  dir = mean_j [E(u_j) - E(b_j)].
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safediff.attack.base import TextAttack
from safediff.attack.texts import longest_text
from safediff.models.backbone import Backbone, Condition
from safediff.policy.plan import ConceptPlan

MAX_PAIRS = 64
"""The papers take 50 to 79."""

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class RingABell(TextAttack):
    """Adds the direction of the prompt's concept to the text states of every token."""

    eta: float
    """How far along dir; ``benign`` must not be empty."""

    def condition(self, prompts: Sequence[str]) -> Condition:
        """E(p) + eta dir."""
        c = self.models.safe.encode(prompts)
        offsets = torch.stack([self._directions[self.concepts[prompt].name] for prompt in prompts])
        return replace(c, hidden=c.hidden + self.eta * offsets)

    @functools.cached_property
    def _directions(self) -> dict[str, Tensor]:
        concepts = {concept.name: concept for concept in self.concepts.values()}
        return {
            name: direction(self.models.safe, prompt_pairs(concept, self.benign))
            for name, concept in concepts.items()
        }


def prompt_pairs(concept: ConceptPlan, benign: Sequence[str]) -> list[Pair]:
    """The concept's phrasings, each with another benign text in place of the erase text.

    Where no phrasing spells an erase text out, the erase texts themselves stand for phrasings.
    Phrasings take turns, and so do benign texts, until every phrasing met every text or there are
    ``MAX_PAIRS``.
    """
    spelt = [
        (phrasing, text)
        for phrasing in concept.phrasings
        if (text := longest_text(phrasing, concept.erase))
    ] or [(text, text) for text in concept.erase]
    num_pairs = min(MAX_PAIRS, len(spelt) * len(benign))
    rounds = range(len(benign))
    turns = ((s, (i + shift) % len(benign)) for shift in rounds for i, s in enumerate(spelt))
    return [
        (phrasing, phrasing.replace(text, benign[number]))
        for (phrasing, text), number in list(turns)[:num_pairs]
    ]


def direction(backbone: Backbone, pairs: Sequence[Pair]) -> Tensor:
    """dir, (tokens, d)."""
    unsafe, safe = (backbone.encode(side).hidden for side in zip(*pairs, strict=True))
    return (unsafe - safe).mean(0)
