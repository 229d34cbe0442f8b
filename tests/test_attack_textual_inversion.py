"""Textual inversion: one vector a concept, trained on other pictures than it is measured on."""

from dataclasses import replace

import pytest
import torch
from attack_examples import AXE, BOMB, CONCEPTS, DRAWS, SAMPLING, concept, tiny_models

from safediff.attack.base import Models
from safediff.attack.gradients import base_latents, denoising_loss, noised, spread_timesteps
from safediff.attack.own_tokens import searchable_words
from safediff.attack.textual_inversion import Inverted, TextualInversion, with_placeholder
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def inversion(models: Models, num_iterations: int = 4) -> TextualInversion:
    return TextualInversion(
        models=models,
        concepts=CONCEPTS,
        num_pictures=4,
        num_iterations=num_iterations,
        batch_size=4,
        learning_rate=0.1,
    )


def test_the_loss_falls(models: Models) -> None:
    """On noise and timesteps that the training did not see, against the vector it began with."""
    attack = inversion(models, num_iterations=60)
    learned = attack.learn(AXE, SAMPLING).vector
    begun = searchable_words(models.safe).embeddings.mean(0)
    draws = [Draw(text, 7) for text in AXE.phrasings] * 8
    x = base_latents(models.base, draws, SAMPLING)
    points = noised(
        models.safe, x, spread_timesteps(models.safe.scheduler, len(x)), torch.Generator()
    )
    prompts = [draw.prompt for draw in draws]
    with torch.no_grad():
        before, after = (
            float(denoising_loss(models.safe, points, attack._read(prompts, AXE, v)))
            for v in (begun, learned)
        )
    assert after < before
    assert not torch.equal(learned, begun)


def test_a_vector_is_trained_once_a_concept_in_any_order(models: Models) -> None:
    first, second = inversion(models), inversion(models)
    list(first.pictures(DRAWS, SAMPLING))
    list(second.pictures(DRAWS[::-1], SAMPLING))
    assert set(first._learned) == {"axe", "bomb"}
    for name in ("axe", "bomb"):
        assert torch.equal(first._learned[name].vector, second._learned[name].vector)
    assert first.learn(AXE, SAMPLING) is first._learned["axe"]
    assert not torch.equal(first._learned["axe"].vector, first._learned["bomb"].vector)
    other = inversion(models).learn(AXE, replace(SAMPLING, seed=9))
    assert not torch.equal(other.vector, first._learned["axe"].vector)


def test_the_vector_stands_for_the_concept_and_nothing_else(models: Models) -> None:
    """A vector that is the placeholder's own embedding reads as the placeholder."""
    attack = inversion(models)
    for each in (AXE, BOMB):
        found = attack.learn(each, SAMPLING)
        star = models.safe.tokenizer("*", add_special_tokens=False)["input_ids"][0]
        w = models.safe.text_encoder.get_input_embeddings().weight
        attack._learned[each.name] = replace(found, vector=w[star].detach())
    c = attack.condition(["an axe", "a bomb"]).hidden
    expected = models.safe.encode(["an *", "a *"]).hidden
    assert torch.allclose(c, expected, atol=1e-6)


def test_a_word_of_the_vocabulary_reads_as_itself_in_every_phrasing() -> None:
    """Planted: with the embedding of a one-token text the prompt is what it was."""
    base = load_backbone(ModelPlan(base="embedded"))
    prompts = ("axe, noto style", "noto style axe", "a picture of a axe, fluent style", "axe")
    concepts = dict.fromkeys(prompts, concept("axe", *prompts))
    attack = replace(inversion(Models(base=base, safe=base)), concepts=concepts)
    (axe,) = base.tokenizer("axe", add_special_tokens=False)["input_ids"]
    w = base.text_encoder.get_input_embeddings().weight
    attack._learned["axe"] = Inverted(w[axe].detach(), ())
    found, expected = attack.condition(prompts).hidden, base.encode(prompts).hidden
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("an axe", "an *"),
        ("axe, red", "* , red"),
        ("axe axe", "* *"),
        ("an * axe", "an *"),
        ("a hatchet", "a picture of a *"),
    ],
)
def test_where_the_vector_stands(prompt: str, expected: str) -> None:
    assert with_placeholder(prompt, ("axe",)) == expected


def test_training_pictures_are_not_those_it_is_measured_on(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    import safediff.attack.textual_inversion as module

    plain = module.base_latents

    def noting(base, draws, sampling):  # type: ignore[no-untyped-def]
        seeds.append(sampling.seed)
        return plain(base, draws, sampling)

    monkeypatch.setattr(module, "base_latents", noting)
    inversion(models).learn(AXE, SAMPLING)
    assert seeds == [SAMPLING.seed + 1]


def test_a_prompt_that_is_not_read_whole_is_no_start(models: Models) -> None:
    """The vector might stand behind the end of the window."""
    long = f"{'x' * 80} axe"
    attack = replace(inversion(models), concepts={**CONCEPTS, long: AXE})
    assert attack.obstacle() == "a prompt is longer than the text encoder reads"
    assert inversion(models).obstacle() is None
