"""The backbone's small interface, and loading one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_backbone, tiny_pipeline, tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.models.backbone import Backbone, Condition
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import ModelPlan


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model; do not write to it."""
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder / "words").save_pretrained(folder / "tiny")
    return folder / "tiny"


def test_text_that_fills_the_window_is_read(backbone: Backbone) -> None:
    assert backbone.encode(["a" * 75]).hidden.shape == (1, 77, 16)


def test_too_long_text_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="text has 76 tokens, the text encoder reads 75: 'aaa"):
        backbone.encode(["axe", "a" * 76])


def test_texts_are_encoded_alike_in_any_company(backbone: Backbone) -> None:
    texts = [f"axe {i}" for i in range(70)]
    together = backbone.encode(texts).hidden
    for index in (0, 63, 64, 69):
        alone = backbone.encode([texts[index]]).hidden[0]
        torch.testing.assert_close(together[index], alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


@torch.no_grad()
def test_decoded_pictures_are_bytes(backbone: Backbone) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found, finite = backbone.decode(latents)
    assert finite.tolist() == [True, True]
    assert found.dtype == torch.uint8
    scale = backbone.vae.config.scaling_factor
    images = backbone.vae.decode(latents / scale).sample.clamp(-1, 1)
    expected = (images * 0.5 + 0.5) * 255
    assert (found.float() - expected).abs().max() <= 0.51
    assert found.float().std() > 1


@torch.no_grad()
@pytest.mark.parametrize(("small_px", "decoded"), [(16 * 16, [5]), (16 * 16 - 1, [2, 2, 1])])
def test_large_pictures_are_decoded_few_at_a_time(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, small_px: int, decoded: list[int]
) -> None:
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents[3, 0, 2, 3] = torch.inf
    expected, _ = backbone.decode(latents)
    monkeypatch.setattr("safediff.models.backbone.SMALL_PX", small_px)
    monkeypatch.setattr("safediff.models.backbone.DECODED_PX", 2 * 16 * 16 + 1)
    decode, counts = backbone.vae.decode, []

    def noted(z: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        counts.append(len(z))
        found: tuple[torch.Tensor] = decode(z, return_dict=return_dict)
        return found

    monkeypatch.setattr(backbone.vae, "decode", noted)
    found, finite = backbone.decode(latents)
    assert counts == decoded
    assert finite.tolist() == [True, True, True, False, True]
    assert (found.int() - expected.int()).abs().max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("spoilt", ["latent", "pixel"])
def test_a_value_that_is_not_finite_is_told(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    if spoilt == "latent":
        latents[1, 0, 2, 3] = torch.inf
    else:
        decode = backbone.vae.decode

        def decode_badly(z: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
            (images,) = decode(z, return_dict=return_dict)
            images[1, 0, 5, 6] = torch.nan  # one pixel: the picture is not black
            return (images,)

        monkeypatch.setattr(backbone.vae, "decode", decode_badly)
    images, finite = backbone.decode(latents)
    assert finite.tolist() == [True, False, True]
    assert int(images[1].max()) > 8


@torch.no_grad()
def test_another_denoiser_answers(backbone: Backbone) -> None:
    z, t = torch.randn(1, 4, 8, 8), torch.tensor(501)
    other = tiny_unet(seed=3)
    condition = backbone.encode(["axe"])
    found = backbone.with_denoiser(other).denoise(z, t, condition)
    expected = other(z, t, encoder_hidden_states=condition.hidden).sample
    torch.testing.assert_close(found, expected)
    assert (found - backbone.denoise(z, t, condition)).abs().max() > 1e-2


def test_latent_shape_of_an_oblong_model(backbone: Backbone) -> None:
    assert backbone.latent_shape == (4, 8, 8)
    unet = tiny_unet()
    unet.register_to_config(sample_size=(8, 16))
    assert backbone.with_denoiser(unet).latent_shape == (4, 8, 16)


def test_conditions_keep_their_rows_together() -> None:
    hidden = torch.arange(6.0).reshape(3, 2, 1)
    whole = Condition(hidden, {"ids": torch.tensor([7, 8, 9])})
    picked = whole.rows(torch.tensor([2, 0]))
    assert picked.added is not None
    assert torch.equal(picked.hidden, hidden[[2, 0]])
    assert picked.added["ids"].tolist() == [9, 7]
    joined = Condition.cat([picked, whole.rows(slice(1, 2)).repeat(2)])
    assert joined.added is not None
    assert len(joined) == 4
    assert joined.added["ids"].tolist() == [9, 7, 8, 8]
    assert torch.equal(joined.hidden, hidden[[2, 0, 1, 1]])
    assert Condition.cat([Condition(hidden)] * 2).added is None


def test_schedulers_are_not_shared(backbone: Backbone) -> None:
    one = backbone.new_scheduler()
    one.set_timesteps(7)
    assert len(one.timesteps) == 7
    assert len(backbone.new_scheduler().timesteps) == 1000


def test_saved_folder_loads(folder: Path) -> None:
    found = load_backbone(ModelPlan(base=str(folder)))
    assert found.name == str(folder)
    expected = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in found.denoiser.state_dict().items():
        assert torch.equal(value.cpu(), expected[name])
    for part in (found.denoiser, found.vae, found.text_encoder):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())
    half = load_backbone(ModelPlan(base=str(folder), dtype="bfloat16"))
    assert half.denoiser.dtype == torch.bfloat16
    assert unet_sha256(half.denoiser) != unet_sha256(found.denoiser)


@pytest.mark.parametrize("base", ["no/such/folder", "someone/some-model"])
def test_unknown_base_without_revision(base: str) -> None:
    with pytest.raises(UsageError, match="no such folder or file, and no hub revision") as caught:
        load_backbone(ModelPlan(base=base))
    assert caught.value.exit_code == 2


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no model_index\.json"):
        load_backbone(ModelPlan(base=str(tmp_path)))


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def garble_config(folder: Path) -> None:
    (folder / "unet/config.json").write_text("{")


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["conv_out.weight"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


TEXT_WEIGHTS = "text_encoder/model.safetensors"


def cut_text_encoder(folder: Path) -> None:
    path = folder / TEXT_WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])


DAMAGES = [
    cut,
    empty,
    remove,
    garble_config,
    lose_a_tensor,
    cut_text_encoder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_inconclusive(folder: Path, tmp_path: Path, damage: Any) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(Inconclusive, match="cannot be loaded") as caught:
        load_backbone(ModelPlan(base=str(copy)))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"garbage")
    with pytest.raises(Inconclusive, match="cannot be loaded"):
        load_backbone(ModelPlan(base=str(path)))
