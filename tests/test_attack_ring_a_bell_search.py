"""The genetic search of Ring-A-Bell: what it minimises, and that it does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_examples import BENIGN, CONCEPTS, DRAWS, SAMPLING, tiny_models
from tiny import tiny_v_pipeline

from safediff.attack.base import Models
from safediff.attack.ring_a_bell_search import RingABellSearch
from safediff.models.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def attack(models: Models) -> RingABellSearch:
    return RingABellSearch(
        models=models,
        concepts=CONCEPTS,
        benign=BENIGN,
        eta=1.0,
        num_tokens=4,
        population=16,
        num_rounds=10,
        mutation_rate=0.5,
        crossover_rate=0.5,
    )


def test_the_distance_falls_and_the_prompt_changes(attack: RingABellSearch) -> None:
    found = attack.search(DRAWS[0], SAMPLING)
    assert len(found.distances) == 10
    assert list(found.distances) == sorted(found.distances, reverse=True)
    assert found.distances[-1] < 0.99 * found.distances[0]
    assert found.text != DRAWS[0].prompt
    assert len(found.text.split()) == 4


@pytest.mark.parametrize("padding", ["the end token", "another"])
@pytest.mark.parametrize("num_tokens", [4, 75])
def test_the_distance_is_that_of_the_typed_text(
    attack: RingABellSearch, tmp_path: Path, padding: str, num_tokens: int
) -> None:
    """To what the embedding attack of the same eta reads, written out.

    Models of the form of 2.x pad with another token, so that the end token stands in one place.
    """
    attack = replace(attack, num_tokens=num_tokens)
    if padding == "another":
        model = StableDiffusion.from_pipeline("tiny", tiny_v_pipeline(tmp_path))
        attack = replace(attack, models=Models(base=model, safe=model))
    found = attack.search(DRAWS[0], SAMPLING)
    safe = attack.models.safe
    target = safe.encode(["an axe"]).hidden[0] + 1.0 * attack._directions["axe"]
    by_hand = (safe.encode([found.text]).hidden[0] - target).square().mean()
    assert float(by_hand) == pytest.approx(found.distances[-1], rel=1e-4)


def test_the_same_search_finds_the_same(attack: RingABellSearch) -> None:
    first = attack.search(DRAWS[0], SAMPLING)
    assert replace(attack).search(DRAWS[0], SAMPLING) == first
    assert attack.search(DRAWS[0], replace(SAMPLING, seed=4)) != first


def test_without_children_nothing_gets_nearer(attack: RingABellSearch) -> None:
    frozen = replace(attack, mutation_rate=0.0, crossover_rate=0.0)
    distances = frozen.search(DRAWS[0], SAMPLING).distances
    assert len(set(distances)) == 1


def test_children_have_words_of_their_parents_up_to_one(attack: RingABellSearch) -> None:
    alive = torch.arange(16).view(-1, 1).repeat(1, 4)
    following = attack._next(alive, torch.Generator().manual_seed(0))
    assert torch.equal(following[:8], alive[:8])
    strange = (following[8:] >= 8).sum(1)
    assert strange.max() <= 1
    assert any(len(set(child.tolist())) > 1 for child in following[8:])


def test_refused_texts_are_passed_over(
    attack: RingABellSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = attack.search(DRAWS[0], SAMPLING)
    module = "safediff.attack.ring_a_bell_search.check_text"
    monkeypatch.setattr(module, lambda text: "no" if text == best.text else None)
    assert attack.search(DRAWS[0], SAMPLING).text not in (best.text, "an axe")
    monkeypatch.setattr(module, lambda text: "no")
    assert attack.search(DRAWS[0], SAMPLING).text == "an axe"


def test_words_must_fit(attack: RingABellSearch) -> None:
    assert attack.obstacle() is None
    assert replace(attack, num_tokens=75).obstacle() is None
    assert replace(attack, num_tokens=76).obstacle() == "76 words do not fit into 75 tokens"
