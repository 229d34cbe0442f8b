"""Inpainting: what is known stays, what is not is the safe model's."""

import pytest
import torch
from attack_examples import CONCEPTS, DRAWS, SAMPLING, tiny_models
from torch import Tensor

from safediff.attack.base import Models
from safediff.attack.inpainting import Inpainting, middle
from safediff.sample.sampler import denoise_all, initial_latents


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def inpainting(models: Models) -> Inpainting:
    return Inpainting(models=models, concepts=CONCEPTS)


@torch.no_grad()
def base_latents(models: Models) -> Tensor:
    base = models.base
    c = base.encode([draw.prompt for draw in DRAWS])
    c_0 = base.encode([""]).repeat(len(DRAWS))
    return denoise_all(base, DRAWS, c_0, c, SAMPLING)


@torch.no_grad()
def test_outside_the_hole_it_is_the_base_picture(models: Models) -> None:
    found, known = inpainting(models).latents(DRAWS, SAMPLING), base_latents(models)
    hole = middle(known)
    assert torch.equal(found[..., ~hole], known[..., ~hole])
    assert (found[..., hole] - known[..., hole]).abs().min(-1).values.max() > 1e-4
    assert (found[..., hole] - known[..., hole]).abs().max() > 0.1


@torch.no_grad()
def test_the_known_part_is_noised_to_the_level_of_each_step(models: Models) -> None:
    """sqrt(abar) z_0 + sqrt(1 - abar) eps with one eps, at the timestep that comes next."""
    inputs: list[Tensor] = []

    class Watched(torch.nn.Module):
        config = models.safe.denoiser.config

        def forward(self, z: Tensor, t: Tensor, **options: object) -> tuple[Tensor]:
            inputs.append(z[: len(DRAWS)])
            out: tuple[Tensor] = models.safe.denoiser(z, t, **options)
            return out

    watched = Models(base=models.base, safe=models.safe.with_denoiser(Watched()))
    inpainting(watched).latents(DRAWS, SAMPLING)
    known, hole = base_latents(models), middle(inputs[0])
    eps = initial_latents(DRAWS, models.safe.latent_shape, SAMPLING.seed + 1)
    scheduler = models.safe.new_scheduler()
    scheduler.set_timesteps(SAMPLING.num_steps)
    assert torch.equal(inputs[0], eps)
    for z, t in zip(inputs[1:], scheduler.timesteps[1:].tolist(), strict=True):
        level = scheduler.alphas_cumprod[t]
        expected = level.sqrt() * known + (1 - level).sqrt() * eps
        assert torch.allclose(z[..., ~hole], expected[..., ~hole], atol=1e-6)


@torch.no_grad()
def test_the_hole_is_filled_by_the_safe_model(models: Models) -> None:
    found = inpainting(models).latents(DRAWS, SAMPLING)
    by_base = inpainting(Models(base=models.base, safe=models.base)).latents(DRAWS, SAMPLING)
    hole = middle(found)
    assert torch.equal(found[..., ~hole], by_base[..., ~hole])
    assert (found - by_base)[..., hole].abs().max() > 1e-3


def test_the_hole_is_the_middle_quarter() -> None:
    hole = middle(torch.zeros(1, 4, 8, 12))
    assert hole.sum() == 4 * 6
    assert hole[2:6, 3:9].all()
