"""The noise probe: its step against diffusers', its tries, what the judge keeps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_examples import (
    AXE,
    BOMB,
    CONCEPTS,
    DRAWS,
    JUDGES,
    SAMPLING,
    BrightnessJudge,
    tiny_models,
)
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from safediff.attack.base import Models
from safediff.attack.best import best_row
from safediff.attack.noise import GRID, Noise, alphas, noisy_step
from safediff.judge.base import Scores
from safediff.sample.draw import Row
from safediff.sample.sampler import sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def one(value: float) -> Tensor:
    return torch.tensor([value]).view(1, 1, 1, 1)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_the_step_is_that_of_ddim(models: Models, eta: float) -> None:
    """Where the noise is less than the level has, at 50 steps."""
    scheduler = models.base.new_scheduler()
    scheduler.set_timesteps(50)
    g = torch.Generator().manual_seed(0)
    z, eps, noise = torch.randn(3, 1, 4, 8, 8, generator=g)
    for t in scheduler.timesteps[::7]:
        expected = scheduler.step(eps, t, z, eta=eta, variance_noise=noise, return_dict=False)[0]
        found = noisy_step(z, eps, *alphas(scheduler, t), one(eta), one(1.0), noise)
        assert torch.allclose(found, expected, atol=1e-5)


def test_more_noise_than_the_level_has_is_cut(models: Models) -> None:
    """At 4 steps an eta of 1.85 would take the root of a negative number."""
    scheduler = models.base.new_scheduler()
    scheduler.set_timesteps(4)
    z, eps, noise = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        a, a_then = alphas(scheduler, t)
        found = noisy_step(z, eps, a, a_then, one(1.85), one(1.0), noise)
        assert found.isfinite().all()
    # all of the last level's noise is new: the prediction speaks through z_0 alone
    z_0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
    by_hand = a_then.sqrt() * z_0 + (1 - a_then).sqrt() * noise
    assert torch.allclose(found, by_hand, atol=1e-5)


def test_the_variance_scale_scales_the_variance(models: Models) -> None:
    scheduler = models.base.new_scheduler()
    scheduler.set_timesteps(50)
    a, a_then = alphas(scheduler, scheduler.timesteps[20])
    z = torch.zeros(1, 4, 8, 8)
    noise = torch.ones_like(z)
    plain, scaled = (noisy_step(z, z, a, a_then, one(1.0), one(v), noise) for v in (1.0, 1.04))
    assert torch.allclose(scaled / plain, torch.tensor(1.04).sqrt())


def test_tries_are_different_and_the_brightest_axe_is_kept(models: Models) -> None:
    attack = Noise(models=models, concepts=CONCEPTS, judges=JUDGES, num_tries=4)
    tries = attack._tries(DRAWS[0], slice(0, 4), SAMPLING)
    assert all((tries[i] - tries[0]).abs().max() > 1e-2 for i in (1, 2, 3))
    in_parts = torch.cat([attack._tries(DRAWS[0], slice(i, i + 2), SAMPLING) for i in (0, 2)])
    assert torch.allclose(in_parts, tries, atol=1e-4)
    brightness = models.safe.decode(tries)[0].float().mean((1, 2, 3))
    kept = attack.latents(DRAWS[:1], SAMPLING)
    assert torch.allclose(kept[0], tries[brightness.argmax()], atol=1e-4)
    assert brightness.argmax() != brightness.argmin()


def test_the_grid_is_the_published_one() -> None:
    assert len(GRID) == len(set(GRID)) == 24
    assert GRID[0] == (1.0, 1.0)
    assert GRID[-1] == (1.85, 1.04)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_broken_tries_are_kept_only_if_all_are(models: Models, batch_size: int) -> None:
    sampling = replace(SAMPLING, batch_size=batch_size)
    z = torch.randn(3, *models.safe.latent_shape, generator=torch.Generator().manual_seed(0))
    bright = models.safe.decode(z)[0].float().mean((1, 2, 3))
    order = bright.argsort(descending=True).tolist()
    judges: Any = JUDGES
    assert torch.equal(best_row(models.safe, z, AXE, judges, sampling)[0], z[order[0]])
    assert torch.equal(best_row(models.safe, z, BOMB, judges, sampling)[0], z[order[2]])
    broken = z.clone()
    broken[order[0], 0, 0, 0] = torch.nan
    assert torch.equal(best_row(models.safe, broken, AXE, judges, sampling)[0], z[order[1]])
    nothing = torch.full_like(z, torch.nan)
    assert best_row(models.safe, nothing, AXE, judges, sampling).isnan().all()


class Crashing(BrightnessJudge):
    """Fails on every batch with one of these pictures."""

    def __init__(self, how: str, fails_on: Tensor, threshold: float) -> None:
        self.how, self.fails_on, self.threshold = how, fails_on, threshold

    def score(self, images: Tensor) -> Scores:
        bad = torch.stack([(images == image).flatten(1).all(1) for image in self.fails_on]).any(0)
        if self.how == "crash" and bad.any():
            raise RuntimeError("out of order")
        scores = super().score(images)
        scores.probs[bad] = torch.nan
        return scores


@pytest.mark.parametrize("how", ["crash", "nan"])
@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 1), (1.0, 0)])
def test_a_try_that_cannot_be_judged_is_kept_where_no_other_shows_it(
    models: Models, how: str, threshold: float, kept: int
) -> None:
    """Then its picture fails, and the attack is not taken for one without success."""
    z = torch.randn(3, *models.safe.latent_shape, generator=torch.Generator().manual_seed(0))
    images = models.safe.decode(z)[0].cpu()
    order = images.float().mean((1, 2, 3)).argsort(descending=True).tolist()
    judges: Any = {"embedded": Crashing(how, images[order[:1]], threshold)}
    assert torch.equal(best_row(models.safe, z, AXE, judges, SAMPLING)[0], z[order[kept]])
    judges = {"embedded": Crashing(how, images, threshold)}
    assert torch.equal(best_row(models.safe, z, AXE, judges, SAMPLING)[0], z[0])


@pytest.mark.parametrize("rows", [{}, {"an axe": Row(seed=11, guidance_scale=2.0)}])
def test_a_try_without_extra_noise_is_the_direct_picture(
    models: Models, monkeypatch: pytest.MonkeyPatch, rows: dict[str, Row]
) -> None:
    """From the seed and at the scale of its data set, where that says them."""
    sampling = replace(SAMPLING, rows=rows)
    monkeypatch.setattr("safediff.attack.noise.GRID", ((0.0, 1.0),))
    attack = Noise(models=models, concepts=CONCEPTS, judges=JUDGES, num_tries=1)
    (found,) = next(attack.pictures(DRAWS[:1], sampling))
    (direct,) = next(sample(models.safe, DRAWS[:1], sampling))
    assert (found.image.int() - direct.image.int()).abs().max() <= 1


def test_what_stands_in_the_way(models: Models) -> None:
    attack = Noise(models=models, concepts=CONCEPTS, judges=JUDGES, num_tries=1)
    assert attack.obstacle() is None
    other = replace(models.safe, scheduler=EulerDiscreteScheduler())
    found = replace(attack, models=Models(base=models.base, safe=other)).obstacle()
    assert found == "its steps are DDIM's, the model's scheduler is EulerDiscreteScheduler"
    assert "the judge 'embedded' is not there" in (replace(attack, judges={}).obstacle() or "")
