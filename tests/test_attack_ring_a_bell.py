"""Ring-A-Bell in embedding space, against its formula written out by hand."""

import pytest
import torch
from attack_examples import (
    AXE,
    BENIGN,
    CONCEPTS,
    DRAWS,
    PROMPTS,
    SAMPLING,
    concept,
    stack,
    tiny_models,
)
from torch import Tensor

from safediff.attack.base import Models
from safediff.attack.ring_a_bell import MAX_PAIRS, RingABell, direction, prompt_pairs
from safediff.models.backbone import Backbone
from safediff.sample.sampler import sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def states(backbone: Backbone, text: str) -> Tensor:
    return backbone.encode([text]).hidden[0]


def test_condition_is_the_prompt_plus_eta_times_the_direction(models: Models) -> None:
    attack = RingABell(models=models, concepts=CONCEPTS, eta=1.5, benign=BENIGN)
    found = attack.condition(PROMPTS).hidden
    swaps = {
        "axe": [(p, p.replace("axe", b)) for p in ("axe", "an axe", "axe, red") for b in BENIGN],
        "bomb": [("a bomb", f"a {b}") for b in BENIGN],
    }
    for row, prompt in enumerate(PROMPTS):
        differences = [
            states(models.safe, u) - states(models.safe, b) for u, b in swaps[CONCEPTS[prompt].name]
        ]
        expected = states(models.safe, prompt) + 1.5 * sum(differences) / len(differences)
        assert torch.allclose(found[row], expected, atol=1e-5)
    assert (found[0] - states(models.safe, PROMPTS[0])).abs().max() > 0.1


def test_direction_does_not_care_for_order_but_for_sides(models: Models) -> None:
    pairs = prompt_pairs(AXE, BENIGN)
    found = direction(models.safe, pairs)
    assert torch.allclose(direction(models.safe, pairs[::-1]), found, atol=1e-6)
    swapped = direction(models.safe, [(b, u) for u, b in pairs])
    assert torch.allclose(swapped, -found, atol=1e-6)


def test_without_eta_it_is_the_direct_prompt(models: Models) -> None:
    attack = RingABell(models=models, concepts=CONCEPTS, eta=0.0, benign=BENIGN)
    direct = stack(sample(models.safe, DRAWS, SAMPLING))
    assert (stack(attack.pictures(DRAWS, SAMPLING)) - direct).abs().max() <= 1
    strong = RingABell(models=models, concepts=CONCEPTS, eta=3.0, benign=BENIGN)
    assert (stack(strong.pictures(DRAWS, SAMPLING)) - direct).abs().max() > 1


def test_every_phrasing_meets_every_benign_text() -> None:
    pairs = prompt_pairs(AXE, BENIGN)
    assert len(pairs) == len(set(pairs)) == 9
    assert {unsafe for unsafe, _ in pairs[:3]} == set(AXE.phrasings)
    assert ("axe, red", "owl, red") in pairs


def test_pairs_are_limited_and_balanced() -> None:
    many = concept("axe", *(f"axe number {i}" for i in range(10)))
    pairs = prompt_pairs(many, [f"thing {i}" for i in range(40)])
    assert len(pairs) == len(set(pairs)) == MAX_PAIRS
    counts = [sum(unsafe == p for unsafe, _ in pairs) for p in many.phrasings]
    assert max(counts) - min(counts) <= 1


def test_phrasings_that_spell_no_text_are_replaced_by_the_texts() -> None:
    assert prompt_pairs(concept("axe", "Peru body"), ("owl",)) == [("axe", "owl")]
    mixed = concept("axe", "Peru body", "an axe")
    assert prompt_pairs(mixed, ("owl",)) == [("an axe", "an owl")]


def test_the_longest_text_is_replaced() -> None:
    knife = concept("knife", "a kitchen knife")
    both = type(knife)(**{**vars(knife), "erase": ("knife", "kitchen knife")})
    assert prompt_pairs(both, ("owl",)) == [("a kitchen knife", "a owl")]
