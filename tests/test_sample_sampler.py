"""Pictures from seeds: independent of the batch, equal to diffusers' own pipeline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_backbone, tiny_pipeline
from torch import Tensor

from safediff.guard.base import Guard
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone, guided
from safediff.sample.sampler import (
    Draw,
    Picture,
    Row,
    Sampling,
    denoise_all,
    initial_latents,
    sample,
    seed_of,
)

DRAWS = [Draw("axe"), Draw("axe", 1), Draw("bomb"), Draw("a hammer"), Draw("bomb", 1)]
SAMPLING = Sampling(num_steps=4, guidance_scale=5.0, seed=3, batch_size=5)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


def pictures(
    backbone: Backbone, draws: list[Draw], sampling: Sampling, guard: Guard | None = None
) -> list[Picture]:
    batches = sample(backbone, draws, sampling, guard=guard)
    return [picture for batch in batches for picture in batch]


def stack(found: list[Picture]) -> Tensor:
    return torch.stack([picture.image for picture in found]).int()


@pytest.fixture(scope="module")
def expected(backbone: Backbone) -> Tensor:
    return stack(pictures(backbone, DRAWS, SAMPLING))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_picture_does_not_depend_on_its_batch(
    backbone: Backbone, expected: Tensor, batch_size: int
) -> None:
    found = pictures(backbone, DRAWS, replace(SAMPLING, batch_size=batch_size))
    assert [picture.draw for picture in found] == DRAWS
    assert all(picture.finite for picture in found)
    assert (stack(found) - expected).abs().max() <= 1
    reverse = pictures(backbone, DRAWS[::-1], SAMPLING)
    assert (stack(reverse).flip(0) - expected).abs().max() <= 1
    for a in range(len(DRAWS)):
        for b in range(a):
            assert (expected[a] - expected[b]).abs().max() > 5


def test_seed_depends_on_prompt_index_and_seed() -> None:
    seeds = {seed_of(Draw(p, i), s) for p in ("axe", "bomb", "") for i in range(4) for s in (0, 1)}
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(Draw("axe"), 0) == seed_of(Draw("axe"), 0)


def test_latents_are_standard_normal() -> None:
    latents = initial_latents([Draw("axe", i) for i in range(100)], (4, 8, 8), 0)
    assert latents.shape == (100, 4, 8, 8)
    assert latents.mean().abs() < 0.03
    assert latents.std() == pytest.approx(1, abs=0.03)
    assert torch.equal(latents[3:4], initial_latents([Draw("axe", 3)], (4, 8, 8), 0))


def test_pictures_equal_those_of_diffusers(tmp_path: Path, expected: Tensor) -> None:
    pipeline: Any = tiny_pipeline(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        [draw.prompt for draw in DRAWS],
        latents=initial_latents(DRAWS, (4, 8, 8), SAMPLING.seed),
        num_inference_steps=SAMPLING.num_steps,
        guidance_scale=SAMPLING.guidance_scale,
        output_type="pt",
    ).images
    assert ((images * 255).round().int() - expected).abs().max() <= 1


@torch.no_grad()
def test_without_a_guard_guidance_is_classifier_free_to_the_last_bit(backbone: Backbone) -> None:
    c_0 = backbone.encode([""]).repeat(len(DRAWS))
    c = backbone.encode([draw.prompt for draw in DRAWS])
    scheduler = backbone.new_scheduler()
    scheduler.set_timesteps(SAMPLING.num_steps)
    z = initial_latents(DRAWS, backbone.latent_shape, SAMPLING.seed)
    for t in scheduler.timesteps:
        eps = guided(backbone, z, t, c_0, c, SAMPLING.guidance_scale)
        z = scheduler.step(eps, t, z, return_dict=False)[0]
    assert torch.equal(denoise_all(backbone, DRAWS, c_0, c, SAMPLING), z)


@pytest.mark.parametrize("name", ["neg", "sld-max", "sega-max"])
def test_guard_changes_pictures_one_by_one(backbone: Backbone, expected: Tensor, name: str) -> None:
    guard = make_guard(name, ["sword", "rifle"])
    found = stack(pictures(backbone, DRAWS, SAMPLING, guard))
    assert ((found - expected).abs().flatten(1).max(1).values > 1).all()
    again = stack(pictures(backbone, DRAWS[::-1], replace(SAMPLING, batch_size=2), guard)).flip(0)
    assert (again - found).abs().max() <= 1


@pytest.mark.parametrize("change", [{"seed": 4}, {"num_steps": 5}, {"guidance_scale": 2.0}])
def test_settings_change_the_picture(
    backbone: Backbone, expected: Tensor, change: dict[str, Any]
) -> None:
    found = stack(pictures(backbone, DRAWS[:1], replace(SAMPLING, **change)))
    assert (found - expected[:1]).abs().max() > 1


class BrokenUNet:
    """Fails for pictures of the third row."""

    def __init__(self, unet: Any, planted: float) -> None:
        self.unet, self.config, self.planted = unet, unet.config, planted

    def __call__(self, *args: Any, **options: Any) -> Any:
        (eps,) = self.unet(*args, **options)
        eps = eps.clone()
        eps[2, 0, 0, 0] = self.planted
        return (eps,)


@pytest.mark.parametrize("planted", [float("nan"), float("inf")])
def test_picture_of_a_broken_denoiser_is_marked(
    backbone: Backbone, expected: Tensor, planted: float
) -> None:
    broken = backbone.with_denoiser(BrokenUNet(backbone.denoiser, planted))
    found = pictures(broken, DRAWS, SAMPLING)
    assert [picture.finite for picture in found] == [True, True, False, True, True]
    assert found[2].image.dtype == torch.uint8
    good = [0, 1, 3, 4]
    assert (stack(found)[good] - expected[good]).abs().max() <= 1


def test_every_batch_is_reported(backbone: Backbone) -> None:
    counts: list[int] = []
    sampling = replace(SAMPLING, num_steps=1, batch_size=2)
    batches = sample(backbone, DRAWS, sampling, on_batch=counts.append)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert counts == [2, 2, 1]


ROWS = {"axe": Row(seed=11, guidance_scale=2.0), "bomb": Row(seed=11)}


def test_seeds_of_a_data_set_are_kept_and_count_up(backbone: Backbone) -> None:
    seeds = [seed_of(draw, SAMPLING.seed, ROWS) for draw in DRAWS]
    assert seeds == [11, 12, 11, seed_of(Draw("a hammer"), SAMPLING.seed), 12]
    latents = initial_latents(DRAWS, (4, 8, 8), SAMPLING.seed, ROWS)
    plain = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(11))
    assert torch.equal(latents[0], plain)
    assert torch.equal(latents[2], plain)
    assert torch.equal(latents[3:4], initial_latents([Draw("a hammer")], (4, 8, 8), SAMPLING.seed))


def test_guidance_of_a_data_set_holds_for_its_prompts_only(backbone: Backbone) -> None:
    own = replace(SAMPLING, rows={"axe": Row(guidance_scale=2.0)})
    found = pictures(backbone, DRAWS, own)
    assert [picture.draw for picture in found] == DRAWS
    weak = stack(pictures(backbone, DRAWS[:2], replace(SAMPLING, guidance_scale=2.0)))
    usual = stack(pictures(backbone, DRAWS, SAMPLING))
    assert (stack(found)[:2] - weak).abs().max() <= 1
    assert (stack(found)[:2] - usual[:2]).abs().flatten(1).max(1).values.min() > 1
    assert (stack(found)[2:] - usual[2:]).abs().max() <= 1


def test_parts_share_guidance_and_never_exceed_the_batch() -> None:
    sampling = replace(SAMPLING, batch_size=2, rows={"bomb": Row(guidance_scale=1.5)})
    parts = list(sampling.batches([*DRAWS[:2], DRAWS[0], DRAWS[2], DRAWS[4], DRAWS[3]]))
    assert [(len(part), own.guidance_scale) for part, own in parts] == [
        (2, 5.0),
        (1, 5.0),
        (2, 1.5),
        (1, 5.0),
    ]
