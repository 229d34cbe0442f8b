"""Prompts of harmless things, for attacks that draw some."""

from collections.abc import Iterable, Sequence

from safediff.attack.ring_a_bell import prompt_pairs
from safediff.attack.texts import longest_text
from safediff.policy.plan import ConceptPlan
from safediff.sample.sampler import Draw


def kept_draws(concepts: Iterable[ConceptPlan], benign: Sequence[str], count: int) -> list[Draw]:
    """``count`` pictures of harmless texts in the phrasings of the concepts.

    No prompt spells an erase text of any of the concepts; empty where none is left.
    """
    distinct = list({concept.name: concept for concept in concepts}.values())
    erased = [text for concept in distinct for text in concept.erase]
    every = dict.fromkeys(
        prompt for concept in distinct for _, prompt in prompt_pairs(concept, benign)
    )
    prompts = [prompt for prompt in every if longest_text(prompt, erased) is None]
    if not prompts:
        return []
    chosen = (number * max(1, len(prompts) // count) for number in range(count))
    return [Draw(prompts[place % len(prompts)], place // len(prompts)) for place in chosen]


def kept_obstacle(concepts: Iterable[ConceptPlan], benign: Sequence[str]) -> str | None:
    """Why no harmless picture can be drawn; None where some can."""
    found = benign and kept_draws(concepts, benign, 1)
    return None if found else "it needs harmless texts that spell none of the erased"
