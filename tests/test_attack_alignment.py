"""Tier 0: no pictures, exact numbers."""

from typing import Any

import pytest
import torch
from attack_examples import counted, tiny_models
from torch import Tensor

from safediff.attack.alignment import BATCH_SIZE, measure_alignment
from safediff.attack.base import Models
from safediff.attack.params import ALIGNMENT_LATENTS, ALIGNMENT_STEPS
from safediff.sample.sampler import Sampling
from safediff.verify.drift import NUM_LATENTS, null_drift

TEXTS = ("axe", "a bomb")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


class Told:
    """Answers as ``unet`` would, with ``share`` of what the text changes, plus a shift."""

    def __init__(self, unet: Any, empty: Tensor, share: float, shift: float) -> None:
        self.unet, self.config = unet, unet.config
        self.empty, self.share, self.shift = empty, share, shift

    def __call__(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, **options: Any) -> Any:
        (told,) = self.unet(z, t, encoder_hidden_states=encoder_hidden_states, **options)
        nothing = self.empty.expand(len(z), -1, -1)
        (blank,) = self.unet(z, t, encoder_hidden_states=nothing, **options)
        return ((1 + self.shift) * blank + self.share * (told - blank),)


def altered(models: Models, share: float, shift: float) -> Any:
    empty = models.base.encode([""]).hidden
    return models.base.with_denoiser(Told(models.base.denoiser, empty, share, shift))


def test_the_base_is_aligned_with_itself(models: Models) -> None:
    found = measure_alignment(models.base, models.base, TEXTS)
    assert found.drift == 0
    assert list(found.by_text) == list(TEXTS)
    for ratios in (found.by_text, found.along):
        assert all(value == pytest.approx(1, abs=1e-6) for value in ratios.values())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.5, -0.5])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_what_is_left_and_how_far_the_empty_prompt_moved(
    models: Models, share: float, shift: float
) -> None:
    found = measure_alignment(models.base, altered(models, share, shift), TEXTS)
    assert found.drift == pytest.approx(shift, abs=1e-5)
    assert all(value == pytest.approx(abs(share), abs=2e-3) for value in found.by_text.values())
    assert all(value == pytest.approx(share, abs=2e-3) for value in found.along.values())


@torch.no_grad()
def test_numbers_equal_the_formula_point_by_point(models: Models) -> None:
    found = measure_alignment(models.base, models.safe, TEXTS, seed=5)
    scheduler = models.base.new_scheduler()
    scheduler.set_timesteps(ALIGNMENT_STEPS)
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(ALIGNMENT_LATENTS, *models.base.latent_shape, generator=generator)
    moved = size = 0.0
    left, told, common = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for t in scheduler.timesteps:
        base_0, safe_0 = (_eps(m, z, t, "") for m in (models.base, models.safe))
        moved += float((safe_0 - base_0).square().sum())
        size += float(base_0.square().sum())
        for i, text in enumerate(TEXTS):
            d_safe = _eps(models.safe, z, t, text) - safe_0
            d_base = _eps(models.base, z, t, text) - base_0
            left[i] += float(d_safe.square().sum())
            told[i] += float(d_base.square().sum())
            common[i] += float((d_safe * d_base).sum())
        z = scheduler.step(base_0, t, z).prev_sample
    assert found.drift == pytest.approx((moved / size) ** 0.5, rel=1e-3)
    for i, text in enumerate(TEXTS):
        assert found.by_text[text] == pytest.approx((left[i] / told[i]) ** 0.5, rel=1e-2)
        assert found.along[text] == pytest.approx(common[i] / told[i], abs=1e-2)


def _eps(model: Any, z: Tensor, t: Tensor, text: str) -> Tensor:
    eps: Tensor = model.denoise(z, t, model.encode([text]).repeat(len(z)))
    return eps


def test_many_texts_do_not_fit_into_one_batch(models: Models) -> None:
    many = [f"axe {i}" for i in range(9)]
    assert (1 + len(many)) * ALIGNMENT_LATENTS > BATCH_SIZE
    found = measure_alignment(models.base, models.safe, many).by_text
    for text in (many[0], many[-1]):
        alone = measure_alignment(models.base, models.safe, [text]).by_text[text]
        assert found[text] == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("num_rows", [3, 2 * BATCH_SIZE])
def test_networks_get_no_more_rows_than_they_draw_with(models: Models, num_rows: int) -> None:
    many = [f"axe {i}" for i in range(9)]
    expected = measure_alignment(models.base, models.safe, many)
    drift = null_drift(models.base, models.safe)
    counting, log = counted(models)
    found = measure_alignment(counting.base, counting.safe, many, num_rows=num_rows)
    assert max(samples for _, _, samples in log) == min(num_rows, BATCH_SIZE)
    assert found.drift == pytest.approx(expected.drift, rel=1e-4)
    assert found.by_text == pytest.approx(expected.by_text, rel=1e-3)
    assert found.along == pytest.approx(expected.along, rel=1e-3)
    log.clear()
    path = null_drift(counting.base, models.safe, num_rows=num_rows)
    assert max(samples for _, _, samples in log) == min(num_rows, NUM_LATENTS)
    assert path == [(t, pytest.approx(value, rel=1e-4)) for t, value in drift]


def test_rows_are_those_of_a_batch_of_pictures(models: Models) -> None:
    assert Sampling(batch_size=4).num_rows(models.base) == 8
    assert Sampling(batch_size=4, guidance_scale=1.0).num_rows(models.base) == 4


def test_no_text_is_refused(models: Models) -> None:
    with pytest.raises(ValueError, match="no text"):
        measure_alignment(models.base, models.safe, [])
