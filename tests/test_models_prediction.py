"""Noise, velocity and flow: one denoiser, three ways to write its answer."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from tiny import tiny_backbone
from torch import Tensor

from safediff.models.backbone import Backbone
from safediff.models.prediction import PREDICTIONS, Prediction, levels, target, to_noise

T = torch.tensor([1, 501, 998])


def randn(seed: int) -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    model = tiny_backbone(tmp_path_factory.mktemp("tiny"))
    return replace(model, scheduler=DDIMScheduler(prediction_type="v_prediction"))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_noise_in_the_right_answer_is_the_noise(kind: Prediction) -> None:
    flow = FlowMatchEulerDiscreteScheduler()
    scheduler = flow if kind == "flow" else DDIMScheduler()
    x, eps = randn(0), randn(1)
    alpha, sigma = levels(scheduler, T, x)
    answer = target(kind, x, eps, alpha, sigma)
    found = to_noise(kind, answer, alpha * x + sigma * eps, alpha, sigma)
    torch.testing.assert_close(found, eps, atol=2e-5, rtol=0)
    wrong = to_noise(kind, answer + 0.1, alpha * x + sigma * eps, alpha, sigma)
    assert (wrong - eps).abs().mean() > (1e-4 if kind == "flow" else 1e-3)


def test_noised_latents_and_velocities_are_those_of_diffusers(backbone: Backbone) -> None:
    x, eps, scheduler = randn(0), randn(1), backbone.scheduler
    torch.testing.assert_close(backbone.noised(x, eps, T), scheduler.add_noise(x, eps, T))
    torch.testing.assert_close(backbone.target(x, eps, T), scheduler.get_velocity(x, eps, T))
    assert (backbone.target(x, eps, T) - eps).abs().max() > 1


def test_the_noise_of_a_velocity_is_what_ddim_takes_it_for(backbone: Backbone) -> None:
    """A DDIM step from velocities, and one from the noise that they stand for."""
    z, velocity = randn(0), randn(1)
    steps = []
    for kind, answer in (
        ("v_prediction", velocity),
        ("epsilon", backbone.noise(velocity, z, torch.tensor(501))),
    ):
        scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
        scheduler.set_timesteps(4)
        steps.append(scheduler.step(answer, 501, z).prev_sample)
    torch.testing.assert_close(*steps, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_levels_between_two_timesteps_are_those_of_euler() -> None:
    euler = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="linspace")
    euler.set_timesteps(7)
    alpha, sigma = levels(euler, euler.timesteps, torch.zeros(7, 4, 8, 8, dtype=torch.float64))
    assert any(t % 1 for t in euler.timesteps.tolist())
    expected = euler.sigmas[:-1].double()
    torch.testing.assert_close((sigma / alpha).flatten(), expected, atol=1e-5, rtol=1e-5)


def test_a_step_of_pure_noise_has_levels() -> None:
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True)
    betas = rescale_zero_terminal_snr(DDIMScheduler().betas)
    assert float((1 - betas).prod()) < 1e-9
    alpha, sigma = levels(scheduler, torch.tensor(999), torch.zeros(1, 1))
    assert 0 < float(alpha) < 1e-3
    assert float(sigma) == pytest.approx(1)
