"""The closed-form way back: what the edited model reads, and when there is nothing to undo."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_examples import CONCEPTS, DRAWS, PROMPTS, SAMPLING, stack, tiny_models
from tiny import tiny_engine
from torch import Tensor, nn

from safediff.attack.base import Models
from safediff.attack.closed_form import ClosedForm, engine_weights, int8_names, is_edited
from safediff.erase.closed_form.kv import kv_weights
from safediff.export.fake_int8 import rounded_weight
from safediff.export.int8 import quantize_engine
from safediff.export.int8_weights import quantize_weights
from safediff.export.runtime import ExportedUNet
from safediff.sample.sampler import sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def attack_on(models: Models, reg: float = 1e-6) -> ClosedForm:
    return ClosedForm(models=models, concepts=CONCEPTS, reg=reg)


def stacked(unet: nn.Module) -> Tensor:
    """All keys and values as one matrix (rows, d)."""
    return torch.cat([w for _, w in sorted(kv_weights(unet).items())])


def test_edited_keys_and_values_read_it_as_the_originals_read_the_prompt(models: Models) -> None:
    """Least squares, solved here by a QR factorisation instead of the normal equations."""
    attack = attack_on(models)
    assert attack.obstacle() is None
    found = attack.condition(PROMPTS).hidden.double()
    c = models.safe.encode(PROMPTS).hidden.double()
    w_e, w_0 = stacked(models.safe.denoiser), stacked(models.base.denoiser)
    wanted = (w_0 @ c.flatten(0, 1).T).detach()
    solved = torch.linalg.lstsq(w_e, wanted).solution.T.reshape(c.shape)
    assert torch.allclose(found, solved, atol=1e-4)
    before = (w_e @ c.flatten(0, 1).T - wanted).norm()
    after = (w_e @ found.flatten(0, 1).T - wanted).norm()
    assert after < 0.9 * before


def test_an_edit_that_can_be_undone_is_undone(models: Models) -> None:
    """W_e = W_0 X: the attack gives the base's pictures back."""
    width = models.base.encode([""]).hidden.shape[-1]
    generator = torch.Generator().manual_seed(1)
    x = torch.eye(width) + 0.1 * torch.randn(width, width, generator=generator)
    edited = {name: (w.float() @ x) for name, w in kv_weights(models.base.denoiser).items()}
    unet = type(models.base.denoiser).from_config(models.base.denoiser.config)
    unet.load_state_dict({**models.base.denoiser.state_dict(), **edited})
    safe = models.base.with_denoiser(unet.eval())
    attack = attack_on(Models(base=models.base, safe=safe), reg=1e-9)
    unguided = replace(SAMPLING, guidance_scale=1.0)  # the empty prompt is not attacked
    base, direct = (stack(sample(m, DRAWS, unguided)) for m in (models.base, safe))
    assert (stack(attack.pictures(DRAWS, unguided)) - base).abs().max() <= 1
    assert (direct - base).abs().max() > 1


def test_more_weight_on_its_size_makes_it_smaller(models: Models) -> None:
    sizes = [attack_on(models, reg).condition(PROMPTS).hidden.norm() for reg in (1e-6, 1.0, 100.0)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_without_an_edit_it_does_not_apply(models: Models, noise: float) -> None:
    """Rounding to half precision is no edit."""
    unet = type(models.base.denoiser).from_config(models.base.denoiser.config)
    state = models.base.denoiser.state_dict()
    unet.load_state_dict({name: tensor * (1 + noise) for name, tensor in state.items()})
    same = Models(base=models.base, safe=models.base.with_denoiser(unet))
    reason = attack_on(same).obstacle()
    assert reason == "the model has the keys and values of the base, so there is no edit to undo"


def test_it_reads_the_weights_of_an_engine(models: Models) -> None:
    engine = ExportedUNet(tiny_engine(), num_threads=1)
    expected = kv_weights(models.base.denoiser)  # the engine of the examples holds the same weights
    found = engine_weights(engine, expected)
    assert found is not None
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    unedited = attack_on(Models(base=models.base, safe=models.base.with_denoiser(engine)))
    assert unedited.obstacle() is not None
    edited = attack_on(Models(base=models.safe, safe=models.base.with_denoiser(engine)))
    assert edited.obstacle() is None
    in_torch = attack_on(Models(base=models.safe, safe=models.base))
    assert torch.equal(edited.condition(PROMPTS).hidden, in_torch.condition(PROMPTS).hidden)


def test_it_reads_the_weights_of_an_int8_engine(models: Models, tmp_path: Path) -> None:
    engine = ExportedUNet(quantize_engine(tiny_engine(), tmp_path / "int8", {}).parent)
    expected = kv_weights(models.base.denoiser)
    found = engine_weights(engine, expected)
    assert found is not None
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        assert ((found[name] - weight).abs() <= 0.5001 * step).all()
        assert not torch.equal(found[name], weight)
    assert engine_weights(engine, expected | {"no.such.weight": torch.ones(1)}) is None


@pytest.mark.parametrize("quantize", [quantize_engine, quantize_weights])
def test_rounding_to_int8_is_no_edit(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: Any
) -> None:
    monkeypatch.setattr("safediff.export.int8_weights.MIN_SIZE", 1)
    engine = ExportedUNet(quantize(tiny_engine(), tmp_path / "int8", {}).parent)
    assert int8_names(engine) >= kv_weights(models.base.denoiser).keys()
    safe = models.base.with_denoiser(engine)
    reason = attack_on(Models(base=models.base, safe=safe)).obstacle()
    assert reason == "the model has the keys and values of the base, so there is no edit to undo"
    assert attack_on(Models(base=models.safe, safe=safe)).obstacle() is None


@pytest.mark.parametrize(("change", "edited"), [(0.0, False), (3e-4, False), (5e-3, True)])
def test_an_edit_shows_through_int8(change: float, edited: bool) -> None:
    """Half precision before it moves some values by a step, which is no edit either."""
    w, other = torch.randn(2, 320, 768, generator=torch.Generator().manual_seed(0)).double()
    moved = w + change * other
    assert is_edited(rounded_weight(moved), rounded_weight(w), w) == edited


def test_what_cannot_be_read_is_no_pass(models: Models) -> None:
    class Unreadable:
        config = models.base.denoiser.config

    closed = attack_on(Models(base=models.base, safe=models.base.with_denoiser(Unreadable())))
    assert closed.obstacle() == "keys and values of this model cannot be read"
