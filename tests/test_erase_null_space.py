"""The soft null space of kept texts."""

from dataclasses import replace

import pytest
import torch
from erase_examples import KEEP, SMALL, frozen_backbone, small_trainer
from tiny import TEXT_DIM, tiny_unet

from safediff.erase import null_space
from safediff.erase.live_bytes import LiveBytes
from safediff.erase.null_space import relative_change, second_moment, soft_projector
from safediff.erase.params import DistilParams
from safediff.erase.weights import Student, trainable_names
from safediff.errors import UsageError
from safediff.models.backbone import Backbone, Condition

ENERGY = torch.tensor([4.0, 1.0, 0.25, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_projector_of_a_diagonal_moment(strength: float) -> None:
    scale = strength * 5.25 / 4
    expected = torch.tensor([scale / (scale + 4), scale / (scale + 1), scale / (scale + 0.25), 1.0])
    found = soft_projector(torch.diag(ENERGY), strength)
    torch.testing.assert_close(found, torch.diag(expected), atol=1e-6, rtol=0)


def test_projector_follows_a_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    found = soft_projector(turn @ torch.diag(ENERGY) @ turn.T, 0.1)
    expected = turn @ soft_projector(torch.diag(ENERGY), 0.1).double() @ turn.T
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_nothing_kept_is_refused() -> None:
    with pytest.raises(UsageError, match="null_space: every state of the kept texts is zero"):
        soft_projector(torch.zeros(4, 4, dtype=torch.float64), 0.1)


def test_second_moment_is_the_mean_over_all_tokens() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[10.0, 2.0], [2.0, 5.0]], dtype=torch.float64) / 4
    torch.testing.assert_close(second_moment(hidden.flatten(0, 1)), expected)


def test_many_tokens_are_not_widened_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randn(1001, 16, generator=torch.Generator().manual_seed(2))
    whole = second_moment(tokens)
    assert torch.equal(whole, tokens.double().T @ tokens.double() / 1001)
    monkeypatch.setattr(null_space, "_CHUNK_BYTES", 8 * 16 * 100)
    with LiveBytes([tokens]) as live:
        before, found = live.now, second_moment(tokens)
    torch.testing.assert_close(found, whole)
    assert live.peak - before < 8 * 16 * 300


def random_student(projected: bool, strength: float) -> tuple[Student, Condition, Condition]:
    """A student with random changes; kept texts use the first four directions, others the rest."""
    generator = torch.Generator().manual_seed(1)
    kept, others = torch.zeros(3, 5, TEXT_DIM), torch.zeros(3, 5, TEXT_DIM)
    kept[..., :4] = torch.randn(3, 5, 4, generator=generator)
    others[..., 4:] = torch.randn(3, 5, TEXT_DIM - 4, generator=generator)
    unet = tiny_unet()
    projector = soft_projector(second_moment(kept.flatten(0, 1)), strength) if projected else None
    student = Student(unet, trainable_names(unet, "kv"), projector)
    with torch.no_grad():
        for value in student.values:
            value += torch.randn(value.shape, generator=generator)
    return student, Condition(kept), Condition(others)


@torch.no_grad()
def test_change_is_confined_to_the_null_space() -> None:
    student, kept, others = random_student(projected=True, strength=1e-5)
    change = relative_change(student.base, student.weights(), kept)
    assert change.shape == (3,)
    assert change.max() < 1e-3
    assert relative_change(student.base, student.weights(), others).min() > 0.5
    free, _, _ = random_student(projected=False, strength=1e-5)
    assert relative_change(free.base, free.weights(), kept).min() > 0.5


@torch.no_grad()
def test_relative_change_is_a_mean_of_ratios() -> None:
    base = {"k": torch.eye(2), "v": 2 * torch.eye(2)}
    changed = {"k": 1.5 * torch.eye(2), "v": 3 * torch.eye(2) + torch.eye(2)}
    found = relative_change(base, changed, Condition(torch.ones(2, 3, 2)))
    torch.testing.assert_close(found, torch.full((2,), (0.5 + 1.0) / 2))
    assert relative_change(base, base, Condition(torch.ones(2, 3, 2))).max() == 0


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def kept_change(backbone: Backbone, params: DistilParams) -> float:
    trainer = small_trainer(backbone, params)
    erased = trainer.run(lambda info: None)
    kept = backbone.encode([*KEEP, ""])
    change = relative_change(trainer.student.base, erased.student.tensors, kept)
    return float(change.max())


def test_training_with_a_tiny_lambda_leaves_kept_texts_alone(backbone: Backbone) -> None:
    params = replace(SMALL, num_steps=2, trainable="kv")
    assert kept_change(backbone, params) > 1e-3
    assert kept_change(backbone, replace(params, null_space=1e-9)) < 1e-5
