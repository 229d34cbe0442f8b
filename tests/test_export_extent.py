"""How much is computed to compare an engine: everything where it is cheap, little where not."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny import tiny_backbone, tiny_xl_backbone
from torch import Tensor

from safediff.export.extent import Extent, in_brief, in_full
from safediff.export.parity import TIMESTEPS
from safediff.models.backbone import Condition
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan


def of_size(folder: Path, side: int) -> Extent:
    model = tiny_backbone(folder)
    model.denoiser.register_to_config(sample_size=side)
    return in_full(model, 8)


def test_small_latents_are_compared_at_every_timestep(tmp_path: Path) -> None:
    embedded = load_backbone(ModelPlan(base="embedded"))
    for num_latents in (4, 8):
        found = in_full(embedded, num_latents)
        assert (found.num_latents, found.latent_shape) == (num_latents, (8, 8, 8))
        assert found.timesteps == TIMESTEPS
    assert of_size(tmp_path, 31).num_latents == 8


def test_large_ones_take_a_bounded_number_of_rows(tmp_path: Path) -> None:
    for side in (64, 128):
        found = of_size(tmp_path, side)
        assert found == Extent(
            num_latents=2, latent_shape=(4, side, side), timesteps=(981, 501, 21)
        )
        margin, parity = 3 * found.num_latents, 2 * found.num_latents
        assert (margin + parity) * len(found.timesteps) == 30


@torch.no_grad()
def test_large_latents_are_predicted_a_row_at_a_time(tmp_path: Path) -> None:
    model, asked = tiny_backbone(tmp_path), []

    def denoise(z: Tensor, t: Tensor, c: Condition) -> Tensor:
        asked.append(len(z))
        return model.denoise(z, t, c)

    z, t, c = torch.randn(2, 4, 32, 32), torch.tensor(501), model.encode(["owl", "an axe"])
    large = Extent(num_latents=2, latent_shape=(4, 32, 32), timesteps=(501,))
    small = replace(large, latent_shape=(4, 31, 31))
    assert (large.is_large, small.is_large) == (True, False)
    expected = small.in_rows(denoise)(z, t, c)
    found = large.in_rows(denoise)(z, t, c)
    assert asked == [2, 1, 1]
    assert torch.allclose(found, expected, atol=1e-5)


def test_in_brief_unets_are_asked_at_their_smallest(tmp_path: Path) -> None:
    for model in (tiny_backbone(tmp_path / "sd"), tiny_xl_backbone(tmp_path / "xl")):
        assert in_brief(model) == Extent(num_latents=2, latent_shape=(4, 2, 2), timesteps=(501,))
