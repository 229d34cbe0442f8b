"""Benign fine-tuning: on kept pictures only, of the safe model's copy."""

import pytest
import torch
from attack_examples import BENIGN, CONCEPTS, DRAWS, SAMPLING, tiny_models

from safediff.attack.base import Models
from safediff.attack.fine_tuning import FineTuning


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def tuning(models: Models, num_iterations: int = 5, benign: tuple[str, ...] = BENIGN) -> FineTuning:
    return FineTuning(
        models=models,
        concepts=CONCEPTS,
        benign=benign,
        rank=2,
        num_pictures=4,
        num_iterations=num_iterations,
        batch_size=4,
        learning_rate=0.02,
    )


def test_the_loss_falls(models: Models) -> None:
    losses = tuning(models, 80).tuned(SAMPLING).losses
    assert sum(losses[-20:]) < 0.97 * sum(losses[:20])


def test_the_safe_model_stays_and_attention_alone_changes(models: Models) -> None:
    before = {name: w.clone() for name, w in models.safe.denoiser.named_parameters()}
    attack = tuning(models)
    list(attack.pictures(DRAWS, SAMPLING))
    after = dict(models.safe.denoiser.named_parameters())
    assert all(torch.equal(after[name], w) for name, w in before.items())
    assert all(w.grad is None for w in after.values())
    weights = attack.tuned(SAMPLING).model.denoiser.weights
    assert weights
    assert all(".attn1." in name or ".attn2." in name for name in weights)
    for name, w in weights.items():
        change = w - before[name]
        assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= 2


def test_nothing_of_the_concepts_is_trained_on(models: Models) -> None:
    prompts = {
        draw.prompt for draw in tuning(models, benign=("axe head", *BENIGN)).training_draws()
    }
    assert prompts
    assert not any("axe" in prompt or "bomb" in prompt for prompt in prompts)


def test_no_training_is_the_direct_picture(models: Models) -> None:
    from safediff.sample.sampler import sample

    found = next(tuning(models, num_iterations=0).pictures(DRAWS, SAMPLING))
    direct = next(sample(models.safe, DRAWS, SAMPLING))
    for a, b in zip(found, direct, strict=True):
        assert (a.image.int() - b.image.int()).abs().max() <= 1


def test_the_training_can_be_repeated(models: Models) -> None:
    first, second = (tuning(models).tuned(SAMPLING) for _ in range(2))
    assert first.losses == second.losses
    assert all(
        torch.equal(w, second.model.denoiser.weights[name])
        for name, w in first.model.denoiser.weights.items()
    )


def test_without_harmless_texts_it_does_not_apply(models: Models) -> None:
    reason = "it needs harmless texts that spell none of the erased"
    assert tuning(models, benign=()).obstacle() == reason
    assert tuning(models).obstacle() is None
