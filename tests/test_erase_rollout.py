"""Rollouts: how far they go, which timestep goes with them, and what guidance does."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from erase_examples import KEEP, SMALL, frozen_backbone, small_trainer
from tiny import tiny_backbone, tiny_xl_backbone
from torch import Tensor

from safediff.erase.mean_steps import mean_steps
from safediff.erase.rollout import bin_of, draw_steps, draw_timestep, rollout
from safediff.erase.weights import PatchedUNet
from safediff.models.backbone import Backbone, guided
from safediff.policy.cost import distil_passes


class CountingUNet:
    """Counts its calls and remembers their timesteps."""

    def __init__(self, unet: Any) -> None:
        self.unet, self.config = unet, unet.config
        self.timesteps: list[int] = []

    def __call__(self, z: Tensor, t: Tensor, **options: Any) -> Any:
        self.timesteps.append(int(t))
        return self.unet(z, t, **options)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_zero_steps_leave_the_noise_alone(backbone: Backbone) -> None:
    unet = CountingUNet(backbone.denoiser)
    c_0, c_p = backbone.encode(["", ""]), backbone.encode(["axe", "bomb"])
    (state,) = rollout(backbone.with_denoiser(unet), c_0, c_p, [0], SMALL, generator())
    assert unet.timesteps == []
    assert state.u == 0
    assert torch.equal(state.z, torch.randn(2, 4, 8, 8, generator=generator()))


def test_one_denoiser_call_per_step_of_the_longest(backbone: Backbone) -> None:
    unet = CountingUNet(backbone.denoiser)
    c_0, c_p = backbone.encode(["", ""]), backbone.encode(["axe", "bomb"])
    states = rollout(backbone.with_denoiser(unet), c_0, c_p, [0, 2, 5], SMALL, generator())
    assert [(state.u, state.num_evaluations) for state in states] == [(0, 0), (2, 2), (5, 5)]
    assert all(state.t.shape == (2,) and state.z.shape == (2, 4, 8, 8) for state in states)
    assert unet.timesteps == [876, 751, 626, 501, 376]


@torch.no_grad()
@pytest.mark.usefixtures("same_products")
def test_trajectory_is_guided_ddim(backbone: Backbone) -> None:
    c_0, c_p = backbone.encode([""]), backbone.encode(["axe"])
    (state,) = rollout(backbone, c_0, c_p, [3], SMALL, generator())
    alphas: Tensor = backbone.scheduler.alphas_cumprod.double()
    z = torch.randn(1, 4, 8, 8, generator=generator())
    for t in (876, 751, 626):
        e_0, e_p = (backbone.denoise(z, torch.tensor(t), c) for c in (c_0, c_p))
        e = e_0 + SMALL.guidance_scale * (e_p - e_0)
        now, then = alphas[t], alphas[t - 125]
        z_0 = (z - (1 - now).sqrt() * e) / now.sqrt()
        z = (then.sqrt() * z_0 + (1 - then).sqrt() * e).float()
    assert (state.z - z).abs().max() <= 1e-5 * z.abs().max()
    (unguided,) = rollout(backbone, c_0, c_p, [3], replace(SMALL, guidance_scale=1.0), generator())
    assert (unguided.z - z).abs().max() > 1e-2


@pytest.mark.parametrize("num_steps", [50, 20, 8])
def test_timestep_lies_in_the_bin_of_u(backbone: Backbone, num_steps: int) -> None:
    stride = 1000 // num_steps
    scheduler = backbone.new_scheduler()
    scheduler.set_timesteps(num_steps)
    for u in (0, 1, num_steps // 2, num_steps - 1):
        low, high = 1000 - stride * (u + 1), 1000 - stride * u
        t = draw_timestep(bin_of(u, num_steps, int(scheduler.timesteps[0])), 4000, generator(u))
        assert (int(t.min()), int(t.max())) == (low, high - 1)
        assert low <= int(scheduler.timesteps[u]) < high  # where the rollout stands


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [1, 3, 7, 15, 30, 45, 300, 700])
def test_bins_follow_steps_that_do_not_divide_the_training(
    backbone: Backbone, num_steps: int, spacing: str
) -> None:
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config, timestep_spacing=spacing)
    scheduler.set_timesteps(num_steps)
    bins = [bin_of(u, num_steps, int(scheduler.timesteps[0])) for u in range(num_steps)]
    width = 1000 / num_steps
    assert all(abs(len(each) - width) < 1 for each in bins)
    assert [each.start for each in bins[:-1]] == [each.stop for each in bins[1:]]
    assert bins[-1].start == 0
    # linspace takes N - 1 steps from the last timestep to the first: they drift through the bins
    reach = width if spacing == "linspace" else 1
    for t, each in zip(scheduler.timesteps.tolist(), bins, strict=True):
        assert each.start <= t < each.stop or abs(t - each.start) <= reach


@pytest.mark.parametrize("num_steps", [50, 40, 25, 20, 10, 8, 4])
@pytest.mark.parametrize("first", [0, 999])
def test_bins_of_steps_that_divide_the_training_are_the_papers(num_steps: int, first: int) -> None:
    stride = 1000 // num_steps
    for u in range(num_steps):
        assert bin_of(u, num_steps, first) == range(1000 - stride * (u + 1), 1000 - stride * u)


@pytest.mark.parametrize("timesteps", ["uniform", "beta"])
def test_steps_are_distinct_and_ascending(timesteps: str) -> None:
    params = replace(SMALL, timesteps=timesteps, reuse=4)
    for seed in range(50):
        steps = draw_steps(params, generator(seed))
        assert len(steps) == 4
        assert steps == sorted(set(steps))
        assert set(steps) <= set(range(8))


@pytest.mark.parametrize(
    ("timesteps", "share"), [("uniform", 0.5), ("beta", 0.79)]
)  # of the middle half; for Beta(3, 3) the integral of 30 x^2 (1 - x)^2 from 1/4 to 3/4
def test_beta_prefers_the_middle(timesteps: str, share: float) -> None:
    params = replace(SMALL, timesteps=timesteps, num_inference_steps=40)
    g = generator()
    middle = sum(10 <= draw_steps(params, g)[0] < 30 for _ in range(2000)) / 2000
    assert middle == pytest.approx(share, abs=0.05)


DISTRIBUTIONS = ("uniform", "beta", "early")


@pytest.mark.parametrize("timesteps", DISTRIBUTIONS)
@pytest.mark.parametrize(("num_steps", "reuse"), [(50, 1), (20, 4), (10, 2), (8, 4)])
def test_the_mean_number_of_steps_is_that_of_the_largest_drawn(
    timesteps: str, num_steps: int, reuse: int
) -> None:
    params = replace(SMALL, timesteps=timesteps, num_inference_steps=num_steps, reuse=reuse)
    g, count = generator(), 3000
    mean = sum(draw_steps(params, g)[-1] for _ in range(count)) / count
    assert mean_steps(params) == pytest.approx(mean, abs=num_steps / 60)


@pytest.mark.parametrize("timesteps", DISTRIBUTIONS)
def test_rollouts_take_the_passes_that_are_foreseen(backbone: Backbone, timesteps: str) -> None:
    params = replace(SMALL, timesteps=timesteps, num_inference_steps=20, reuse=4, batch_size=1)
    unet = CountingUNet(backbone.denoiser)
    unet.unet = lambda z, t, **_: (torch.zeros_like(z),)
    model, g, count = backbone.with_denoiser(unet), generator(), 100
    c_0, c_p = backbone.encode([""]), backbone.encode(["axe"])
    for _ in range(count):
        rollout(model, c_0, c_p, draw_steps(params, g), params, g)
    losses = 4 * params.reuse * count
    passes = distil_passes(replace(params, num_steps=params.reuse * count)) - losses
    assert passes == pytest.approx(2 * len(unet.timesteps), rel=0.06)


@pytest.mark.parametrize("keep", [KEEP, ()])
def test_losses_take_the_passes_that_are_foreseen(
    backbone: Backbone, keep: tuple[str, ...]
) -> None:
    params = replace(SMALL, target="frozen", eta=0.5, anchor_weight=1.0, keep_share=0.5)
    params = replace(params, batch_size=4, num_inference_steps=1)  # no step is rolled out
    erased = small_trainer(backbone, params, keep=keep).run(lambda info: None)
    assert erased.num_passes == distil_passes(params, has_keep=bool(keep))


@pytest.mark.parametrize("t", [torch.tensor(501), torch.tensor([501, 20])])
def test_guidance_is_the_formula_of_two_calls(backbone: Backbone, t: Tensor) -> None:
    z = torch.randn(2, 4, 8, 8, generator=generator())
    c_0, c = backbone.encode(["", ""]), backbone.encode(["axe", "bomb"])
    e_0, e_c = backbone.denoise(z, t, c_0), backbone.denoise(z, t, c)
    found = guided(backbone, z, t, c_0, c, 4.0)
    torch.testing.assert_close(found, e_0 + 4.0 * (e_c - e_0), atol=1e-4, rtol=1e-4)
    assert (found - e_c).abs().max() > 1e-2


def test_a_patched_unet_rolls_out_its_own_weights_and_leaves_the_others(backbone: Backbone) -> None:
    unet = backbone.denoiser
    weights = {
        name: value.detach() + 0.3 * torch.randn_like(value)
        for name, value in unet.named_parameters()
        if "attn2.to_v" in name
    }
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    patched = backbone.with_denoiser(PatchedUNet(unet, weights))
    texts = backbone.encode(["", ""]), backbone.encode(["axe", "bomb"])

    def states(model: Backbone) -> list[Tensor]:
        found = [state.z for state in rollout(model, *texts, [2, 5], SMALL, generator())]
        held = unet.state_dict()  # the UNet is as it was
        assert all(torch.equal(held[name], value) for name, value in before.items())
        assert not [name for name, layer in unet.named_modules() if "forward" in vars(layer)]
        return found

    expected = states(backbone.with_denoiser(CountingUNet(patched.denoiser)))  # called as it is
    original = states(backbone)
    for found, right, other in zip(states(patched), expected, original, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-4)
        assert not torch.allclose(found, other, atol=1e-2)


@pytest.mark.parametrize("family", [tiny_backbone, tiny_xl_backbone])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rolls_out_the_same_bits_with_texts_projected_once(
    family: Callable[[Path], Backbone], dtype: torch.dtype, tmp_path: Path
) -> None:
    model = family(tmp_path)
    unet = model.denoiser.to(dtype).requires_grad_(False)
    weights = {
        name: value + 0.3 * torch.randn(value.shape)  # float32, as a student's
        for name, value in unet.named_parameters()
        if "attn2.to_v" in name
    }
    projections = [layer for name, layer in unet.named_modules() if name.endswith("attn2.to_v")]
    calls: list[Tensor] = []
    for layer in projections:
        layer.forward = partial(counted, calls, layer.forward)
    patched = PatchedUNet(unet, weights)
    texts = model.encode_with_null(["", ""]), model.encode(["axe", "bomb"])

    def states(denoiser: Any) -> list[Tensor]:
        found = rollout(model.with_denoiser(denoiser), *texts, [2, 5], SMALL, generator())
        return [state.z for state in found]

    expected = states(CountingUNet(patched))  # called as it is
    assert len(calls) == 5 * len(projections)
    calls.clear()
    found = states(patched)
    assert len(calls) == len(projections)
    assert all(z.dtype == torch.float32 for z in found)
    for z, right, other in zip(found, expected, states(PatchedUNet(unet, {})), strict=True):
        assert torch.equal(z, right)
        assert not torch.allclose(z, other, atol=1e-2)


def counted(calls: list[Tensor], forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    calls.append(x)
    return forward(x)


def test_weights_come_back_when_a_call_fails(backbone: Backbone) -> None:
    unet = backbone.denoiser
    name, value = next((n, v) for n, v in unet.named_parameters() if "attn2.to_v" in n)
    before, patched = value.clone(), PatchedUNet(unet, {name: value.detach() + 1})

    def fail() -> None:
        with patched.in_place() as used:
            assert used is unet
            assert torch.equal(value, before + 1)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(value, before)


def test_cuts_and_compiled_code_are_not_gone_round(backbone: Backbone) -> None:
    for patched in (
        PatchedUNet(backbone.denoiser, {}, max_rows=1),
        PatchedUNet(
            backbone.denoiser, {}, call=lambda unet, _, args, kwargs: unet(*args, **kwargs)
        ),
    ):
        with patched.in_place() as used:
            assert used is patched
