"""How much is computed to compare an engine: everything where it is cheap, little where not."""

from pathlib import Path

from tiny import tiny_backbone, tiny_xl_backbone

from safediff.export.extent import Extent, in_brief, in_full
from safediff.export.parity import TIMESTEPS
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


def test_in_brief_unets_are_asked_at_their_smallest(tmp_path: Path) -> None:
    for model in (tiny_backbone(tmp_path / "sd"), tiny_xl_backbone(tmp_path / "xl")):
        assert in_brief(model) == Extent(num_latents=2, latent_shape=(4, 2, 2), timesteps=(501,))
