"""Texts are projected once per trajectory, to the same bits, and never from stale operands."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone, tiny_unet

from safediff.models.backbone import Backbone
from safediff.sample import sampler
from safediff.sample.projections import TEXT_PROJECTIONS, text_projections_once
from safediff.sample.sampler import Draw, Sampling, denoise_all

DRAWS = [Draw("axe"), Draw("a hammer"), Draw("bomb")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


def count_projections(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the layers, whenever one computes."""
    calls: list[str] = []
    for name, layer in backbone.denoiser.named_modules():
        if name.endswith(TEXT_PROJECTIONS):
            compute = type(layer).forward

            def forward(self: torch.nn.Module, x: torch.Tensor, compute=compute) -> torch.Tensor:  # type: ignore[no-untyped-def]
                calls.append("called")
                return compute(self, x)

            monkeypatch.setattr(
                layer, "__class__", type("Counted", (type(layer),), {"forward": forward})
            )
    return calls


@torch.no_grad()
def test_once_per_trajectory_and_to_the_same_bits(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    c_0, c = backbone.encode([""]).repeat(3), backbone.encode([d.prompt for d in DRAWS])
    sampling = Sampling(num_steps=4, seed=3)
    calls = count_projections(backbone, monkeypatch)
    num_layers = sum(n.endswith(TEXT_PROJECTIONS) for n, _ in backbone.denoiser.named_modules())
    assert num_layers > 0
    once = denoise_all(backbone, DRAWS, c_0, c, sampling)
    assert len(calls) == num_layers
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "text_projections_once", lambda unet: torch.no_grad())
        every_step = denoise_all(backbone, DRAWS, c_0, c, sampling)
    assert len(calls) == num_layers * 5
    assert torch.equal(once, every_step)


@torch.no_grad()
def test_another_text_is_projected_anew_and_nothing_stays_behind() -> None:
    unet = tiny_unet()
    z, t = torch.randn(2, 4, 8, 8), torch.tensor(500)
    first, second = torch.randn(2, 77, 16), torch.randn(2, 77, 16)

    def answers() -> list[torch.Tensor]:
        return [unet(z, t, encoder_hidden_states=text).sample for text in (first, second, first)]

    expected = answers()
    with text_projections_once(unet):
        assert all(map(torch.equal, answers(), expected))
        with text_projections_once(unet):  # within another
            assert all(map(torch.equal, answers(), expected))
    assert not [name for name, layer in unet.named_modules() if "forward" in vars(layer)]
    for name, parameter in unet.named_parameters():
        if "attn2.to_v" in name:
            parameter += 1.0
    assert not torch.equal(answers()[0], expected[0])  # changed weights are used at once


def test_where_gradients_are_wanted_nothing_is_kept() -> None:
    unet = tiny_unet()
    with text_projections_once(unet):
        assert not [name for name, layer in unet.named_modules() if "forward" in vars(layer)]
    with torch.no_grad(), text_projections_once(object()):
        pass
