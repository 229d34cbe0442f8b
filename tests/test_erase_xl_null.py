"""SDXL's c_0 is all zeros where guidance asks for it, and nowhere else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_form_examples import stored
from erase_examples import CONCEPTS, SMALL, small_trainer
from tiny import tiny_xl_backbone

from safediff.erase.closed_form.params import SPEED_PRESETS
from safediff.erase.closed_form.speed import speed
from safediff.models.stable_diffusion_xl import StableDiffusionXL


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXL:
    found = tiny_xl_backbone(tmp_path_factory.mktemp("tiny"))
    for part in (found.denoiser, found.text_encoder, found.text_encoder_2, found.vae):
        part.requires_grad_(False)
    return found


def test_the_empty_text_has_states_where_it_is_a_text(backbone: StableDiffusionXL) -> None:
    texts = backbone.encode(["", "axe"])
    assert texts.hidden[0].std() > 0.1
    assert torch.equal(texts.hidden[0, 0], texts.hidden[1, 0])  # the start token knows no text
    found = backbone.encode_with_null(["axe", ""])
    assert found.added is not None
    assert texts.added is not None
    assert not found.hidden[1].any()
    assert not found.added["text_embeds"][1].any()
    torch.testing.assert_close(found.rows(slice(0, 1)).hidden, texts.rows(slice(1, 2)).hidden)
    torch.testing.assert_close(found.added["text_embeds"][0], texts.added["text_embeds"][1])
    assert torch.equal(found.added["time_ids"][1], texts.added["time_ids"][1])
    assert not backbone.null().hidden.any()
    read = replace(backbone, zero_null=False)
    assert torch.equal(read.null().hidden, read.encode([""]).hidden)


def test_distilling_answers_like_guidance_and_keeps_the_start(backbone: StableDiffusionXL) -> None:
    """Without kept texts the null space is that of the empty one's states, not of zeros."""
    params = replace(SMALL, num_steps=1, trainable="kv", null_space=1e-4, target="frozen")
    trainer = small_trainer(backbone, params, keep=())
    assert not trainer.texts.null.hidden.any()
    assert not any(bank.hidden.any() for bank in trainer.texts.toward)
    projector, start = trainer.student.projector, backbone.encode(["axe"]).hidden[0, 0]
    assert projector is not None
    assert (projector @ start).norm() < 0.01 * start.norm()
    assert trainer.run(lambda info: None).num_passes > 0


@pytest.mark.parametrize("preset", ["paper", "safediff"])
def test_speed_pins_the_start_token(backbone: StableDiffusionXL, preset: str) -> None:
    patch = speed(backbone, CONCEPTS, (), SPEED_PRESETS[preset])
    base, start = stored(backbone), backbone.encode(["axe"]).hidden[0, 0].double()
    for name, w in patch.tensors.items():
        moved = w.double() - base[name]
        assert (moved @ start).norm() < 1e-5 * (base[name] @ start).norm()
        assert moved.norm() > 1e-3 * base[name].norm()


def test_the_tiny_model_zeroes_as_published_ones_do(tmp_path: Path) -> None:
    assert tiny_xl_backbone(tmp_path).zero_null
