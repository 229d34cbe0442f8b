"""Models that answer with velocities: losses, guards, drift and attacks read them as noise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_examples import BENIGN, CONCEPTS, DRAWS, JUDGES, SAMPLING, tiny_models
from diffusers import DDIMScheduler
from guard_examples import TEXTS, distance, trajectory
from test_erase_losses import SMALL, batch
from test_guard_sega import semantic_trajectory
from test_guard_sld import DIFFUSERS, diffusers_trajectory, safe_pipeline
from tiny import tiny_backbone, tiny_unet
from torch import Tensor

from safediff.attack.alignment import measure_alignment
from safediff.attack.base import Attack, Models
from safediff.attack.classifier_guidance import ClassifierGuidance
from safediff.attack.noise import Noise
from safediff.erase.losses import distil_losses
from safediff.erase.losses import null_drift as drift_in_training
from safediff.erase.rollout import State
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.sample.sampler import sample
from safediff.verify.drift import null_drift

pytestmark = pytest.mark.filterwarnings("ignore:The decode_latents method:FutureWarning")

VELOCITIES = DDIMScheduler.from_config(
    {
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction",
    }
)


class AsNoise:
    """A UNet that answers with velocities, made to answer with the noise that they stand for."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.config = backbone, backbone.denoiser.config
        self.dtype = backbone.denoiser.dtype

    def __call__(self, z: Tensor, t: Tensor, **options: object) -> tuple[Tensor]:
        (v,) = self.backbone.denoiser(z, t, **options)
        a = VELOCITIES.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return (a.sqrt() * v + (1 - a).sqrt() * z,)


def as_noise(backbone: Backbone) -> Backbone:
    """The same model, answering with noise."""
    scheduler = DDIMScheduler.from_config(VELOCITIES.config, prediction_type="epsilon")
    return replace(backbone, denoiser=AsNoise(backbone), scheduler=scheduler)


def velocities(backbone: Backbone) -> Backbone:
    return replace(backbone, scheduler=VELOCITIES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return velocities(tiny_backbone(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def other(model: Backbone) -> Backbone:
    return model.with_denoiser(tiny_unet(seed=4))


def test_the_loss_is_that_of_the_noise_over_alpha_squared(model: Backbone, other: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([600, 600, 600])
    state = State(torch.randn(3, 4, 8, 8, generator=generator), t, 3)
    c_0, c_s = model.encode([""]), model.encode(["axe", "bomb", "hammer"])
    params = replace(SMALL, target="frozen", eta=2.0, anchor_weight=0.5, keep_weight=0.3)
    texts = batch(c_s, c_0.repeat(2), 2)
    found = distil_losses(other, model, state, c_0, texts, params)
    noise = distil_losses(as_noise(other), as_noise(model), state, c_0, texts, params)
    a = float(VELOCITIES.alphas_cumprod[600])
    assert a < 0.3
    for name in ("total", "erase", "keep", "anchor"):
        ours, theirs = (float(getattr(losses, name).detach()) for losses in (found, noise))
        assert ours * a == pytest.approx(theirs, rel=1e-4), name


def test_drift_and_alignment_are_of_the_noise(model: Backbone, other: Backbone) -> None:
    twin, twin_other = as_noise(model), as_noise(other)
    for (t, found), (same, expected) in zip(
        null_drift(model, other), null_drift(twin, twin_other), strict=True
    ):
        assert t == same
        assert found == pytest.approx(expected, rel=1e-4)
    found_all = measure_alignment(model, other, ["axe"])
    expected_all = measure_alignment(twin, twin_other, ["axe"])
    assert found_all.drift == pytest.approx(expected_all.drift, rel=1e-4)
    assert found_all.along["axe"] == pytest.approx(expected_all.along["axe"], rel=1e-3)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([300, 900])
    c_0 = model.encode([""])
    pairs = ((model, other), (twin, twin_other))
    ours, theirs = (drift_in_training(b, a, State(z, t, 0), c_0) for a, b in pairs)
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("name", ["sld-strong", "sega"])
def test_guards_do_what_those_of_diffusers_do(model: Backbone, tmp_path: Path, name: str) -> None:
    found = trajectory(model, make_guard(name, TEXTS))
    if name == "sega":
        expected = semantic_trajectory(tmp_path, name, VELOCITIES)
    else:
        expected = diffusers_trajectory(safe_pipeline(tmp_path, VELOCITIES), **DIFFUSERS[name])
    assert distance(found, expected) <= 1e-4
    assert distance(found, trajectory(model, None)) > 1e-2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    models = tiny_models(tmp_path_factory.mktemp("tiny"))
    return Models(base=velocities(models.base), safe=velocities(models.safe))


@pytest.mark.parametrize("probe", ["noise", "classifier-guidance"])
def test_a_probe_that_does_nothing_draws_the_direct_picture(
    models: Models, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    monkeypatch.setattr("safediff.attack.noise.GRID", ((0.0, 1.0),))
    common = {"models": models, "concepts": CONCEPTS, "judges": JUDGES, "num_tries": 1}
    attack: Attack = (
        Noise(**common)
        if probe == "noise"
        else ClassifierGuidance(
            **common, benign=BENIGN, scale=0.0, num_pictures=2, num_iterations=2
        )
    )
    assert attack.obstacle() is None
    (found,) = next(attack.pictures(DRAWS[:1], SAMPLING))
    (direct,) = next(sample(models.safe, DRAWS[:1], SAMPLING))
    assert (found.image.int() - direct.image.int()).abs().max() <= 1
