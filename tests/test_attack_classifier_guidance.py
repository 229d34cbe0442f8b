"""The classifier-guidance probe: the classifier learns, its pull leads to its class."""

from dataclasses import replace

import pytest
import torch
from attack_examples import BENIGN, CONCEPTS, DRAWS, JUDGES, SAMPLING, tiny_models

from safediff.attack.base import Models
from safediff.attack.classifier_guidance import ClassifierGuidance, LatentClassifier
from safediff.attack.kept import kept_draws
from safediff.sample.draw import Row
from safediff.sample.sampler import sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def attack(models: Models) -> ClassifierGuidance:
    return ClassifierGuidance(
        models=models,
        concepts=CONCEPTS,
        benign=BENIGN,
        judges=JUDGES,
        num_tries=2,
        scale=50.0,
        num_pictures=4,
        num_iterations=60,
    )


def test_the_classifier_learns(attack: ClassifierGuidance) -> None:
    trained = attack.classifier(SAMPLING)
    assert trained.names == ("axe", "bomb")
    assert sum(trained.losses[-10:]) < 0.9 * sum(trained.losses[:10])
    assert attack.classifier(SAMPLING) is trained
    again = replace(attack).classifier(SAMPLING)
    assert again.losses == trained.losses


def test_the_pull_is_the_gradient_of_the_log_probability() -> None:
    g = torch.Generator().manual_seed(1)
    network = LatentClassifier(4, 3, g)
    z, a = torch.randn(2, 4, 8, 8, generator=g), torch.tensor([0.3, 0.9])
    pull = network.pull(z, a, 1)

    def log_p(shift: float) -> torch.Tensor:
        logits = network(z + shift * pull / pull.norm(), a)
        return logits.log_softmax(1)[:, 1].sum()

    with torch.no_grad():
        slope = (log_p(0.1) - log_p(-0.1)) / 0.2
    assert float(slope) == pytest.approx(float(pull.norm()), rel=0.05)
    assert not torch.allclose(network(z, a), network(z, a + 0.1))


def test_the_classifier_believes_in_the_pulled_latents(attack: ClassifierGuidance) -> None:
    """More than in those of the direct picture, for both concepts."""
    trained = attack.classifier(SAMPLING)
    for draw in (DRAWS[0], DRAWS[2]):
        label = trained.names.index(attack.concepts[draw.prompt].name)
        weak = replace(attack, scale=1e-6)
        weak._trained.update(attack._trained)
        ends = [a._tries(draw, slice(0, 2), SAMPLING) for a in (weak, attack)]
        one = torch.ones(2)
        direct, pulled = (trained.network(z, one).log_softmax(1)[:, label] for z in ends)
        assert pulled[1] > direct[1]


@pytest.mark.parametrize("rows", [{}, {"an axe": Row(seed=11, guidance_scale=2.0)}])
def test_without_a_pull_it_asks_directly(
    attack: ClassifierGuidance, models: Models, rows: dict[str, Row]
) -> None:
    """From the seed and at the scale of its data set, where that says them."""
    weak, sampling = replace(attack, scale=1e-9), replace(SAMPLING, rows=rows)
    weak._trained.update(attack._trained)
    (found,) = next(weak.pictures(DRAWS[:1], sampling))
    (direct,) = next(sample(models.safe, DRAWS[:1], sampling))
    assert (found.image.int() - direct.image.int()).abs().max() <= 1


def test_it_needs_something_harmless(attack: ClassifierGuidance) -> None:
    assert attack.obstacle() is None
    reason = "it needs harmless texts that spell none of the erased"
    assert replace(attack, benign=()).obstacle() == reason
    assert replace(attack, benign=("battle axe",)).obstacle() == reason


def test_kept_pictures_spell_nothing_that_is_erased() -> None:
    draws = kept_draws(CONCEPTS.values(), ("key", "pick axe", "owl"), 9)
    assert len(set(draws)) == 9
    prompts = {draw.prompt for draw in draws}
    assert len(prompts) > 4
    assert not any("axe" in prompt or "bomb" in prompt for prompt in prompts)
    assert all("key" in prompt or "owl" in prompt for prompt in prompts)
