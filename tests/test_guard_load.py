"""What all guards have in common: one call a step, no memory of the batch, any denoiser."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from guard_examples import (
    DRAWS,
    ONE_OF_EACH,
    SAMPLING,
    TEXTS,
    TOLERANCE,
    distance,
    guide,
    predictions,
    trajectory,
)
from tiny import tiny_backbone, tiny_engine, tiny_unet
from torch import Tensor

from safediff.errors import UsageError
from safediff.export.runtime import ExportedUNet
from safediff.guard.load import make_guard
from safediff.guard.params import PRESETS
from safediff.models.backbone import Backbone
from safediff.sample.sampler import sample

NAMES = tuple(PRESETS)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def calm(backbone: Backbone) -> Backbone:
    """With v-prediction the latents of an untrained UNet stay near 1, so rounding stays small."""
    config = backbone.scheduler.config
    scheduler = DDIMScheduler.from_config(config, prediction_type="v_prediction")
    return replace(backbone, scheduler=scheduler)


class Watched:
    """A UNet that notes how many rows it gets, and may fail in one of them."""

    def __init__(self, unet: Any, broken_row: int | None = None) -> None:
        self.unet, self.config, self.broken_row = unet, unet.config, broken_row
        self.rows: list[int] = []

    def __call__(self, z: Tensor, *args: Any, **options: Any) -> Any:
        self.rows.append(len(z))
        (eps,) = self.unet(z, *args, **options)
        if self.broken_row is not None:
            eps = eps.clone()
            eps[self.broken_row, 0, 0, 0] = torch.nan
        return (eps,)


@pytest.mark.parametrize("name", NAMES)
def test_guard_is_named_and_unchangeable(name: str) -> None:
    guard = make_guard(name, list(TEXTS))
    assert (guard.name, guard.texts, guard.params) == (name, TEXTS, PRESETS[name])
    with pytest.raises(dataclasses.FrozenInstanceError):
        guard.texts = ()  # type: ignore[misc]


def test_refusals() -> None:
    with pytest.raises(UsageError, match="unknown guard 'slod-max'; did you mean 'sld-max'"):
        make_guard("slod-max", TEXTS)
    with pytest.raises(UsageError, match="guard 'sega' has no text to steer away from"):
        make_guard("sega", [])


def test_texts_longer_than_the_window(backbone: Backbone) -> None:
    """The tiny tokenizer takes a token a letter: joined these are too long, one by one not."""
    texts = ["abcdefgh " * 4, "ijklmnop " * 4, "qrstuvwx " * 4]
    for name in ("neg", "sld-max"):
        with pytest.raises(UsageError, match="text has 98 tokens, the text encoder reads 75"):
            trajectory(backbone, make_guard(name, texts))
    assert trajectory(backbone, make_guard("sega", texts)).isfinite().all()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_call_a_step_with_as_many_branches_as_promised(backbone: Backbone, name: str) -> None:
    guard = make_guard(name, TEXTS)
    unet = Watched(backbone.denoiser)
    trajectory(backbone.with_denoiser(unet), guard)
    assert unet.rows == [guard.num_branches * len(DRAWS)] * SAMPLING.num_steps


@pytest.mark.parametrize("name", NAMES)
def test_guidance_of_a_row_does_not_depend_on_other_rows(backbone: Backbone, name: str) -> None:
    """To the last bit, through momentum too: the same predictions, alone and in a batch."""
    guard = make_guard(name, TEXTS)
    given = predictions(guard, 3) * torch.tensor([0.01, 1, 100]).reshape(3, 1, 1, 1)
    together = guide(backbone, guard, given)
    for row in range(3):
        alone = guide(backbone, guard, given[:, :, row : row + 1])
        assert torch.equal(alone[:, 0], together[:, row])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_picture_does_not_depend_on_its_batch(tmp_path: Path, name: str) -> None:
    """In double precision: rounding that moves an element over a threshold would hide mix-ups."""
    model = tiny_backbone(tmp_path)
    model.denoiser.double()
    model.text_encoder.double()
    guard = make_guard(name, TEXTS)
    whole = trajectory(model, guard)
    assert distance(whole[:, ::2], trajectory(model, guard, DRAWS[::2])) < 1e-9
    assert distance(whole[:, :1], trajectory(model, guard, DRAWS[:1])) < 1e-9
    assert distance(whole[:, :1], whole[:, 2:]) > 1
    assert torch.equal(whole, trajectory(model, guard))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_exported_engine_is_guarded_like_the_unet(calm: Backbone, name: str) -> None:
    """Up to rounding; an element within rounding of a threshold may fall on its other side.

    Such an element moves a few others by up to a hundredth, hence the two limits.
    """
    guard = make_guard(name, TEXTS)
    expected = trajectory(calm, guard)
    found = trajectory(calm.with_denoiser(ExportedUNet(tiny_engine(), num_threads=1)), guard)
    away = (found - expected).abs()
    assert away.quantile(0.9) < TOLERANCE
    assert away.max() < 0.05
    for planted in (
        trajectory(calm, None),
        trajectory(calm.with_denoiser(tiny_unet(seed=9)), guard),
    ):
        assert distance(found, planted) > 0.5


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("branch", ["first", "last"])
def test_broken_branch_is_seen(backbone: Backbone, name: str, branch: str) -> None:
    guard = make_guard(name, TEXTS)
    row = 1 if branch == "first" else (guard.num_branches - 1) * len(DRAWS) + 1
    broken = backbone.with_denoiser(Watched(backbone.denoiser, row))
    (pictures,) = sample(broken, DRAWS, SAMPLING, guard=guard)
    assert [picture.finite for picture in pictures] == [True, False, True]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backbone: Backbone, name: str, dtype: torch.dtype) -> None:
    guard = make_guard(name, TEXTS)
    given = predictions(guard, 2).to(dtype)
    found, expected = guide(backbone, guard, given), guide(backbone, guard, given.float())
    assert found.dtype == dtype
    # The median, because a rounded element may pass a threshold that it did not reach.
    assert (found.float() - expected).abs().median() < 0.01
