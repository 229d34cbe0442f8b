"""PixArt, Stable Diffusion 3 and FLUX.1 behind the backbone interface, against diffusers' own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from erase_examples import SMALL, small_trainer
from small_policy import small_plan
from tiny import LATENT_SIZE
from tiny_transformers import FLOW_CHANNELS, tiny_flux, tiny_sd3
from transformer_examples import FAMILIES, VARIANTS, example, shared_example

from safediff.erase.methods import resolve
from safediff.erase.params import DistilParams
from safediff.errors import UsageError
from safediff.guard.load import make_guard
from safediff.models import flux
from safediff.models.architecture import guidance_is_distilled
from safediff.models.backbone import Backbone
from safediff.models.fast import texts_once
from safediff.models.flow import FlowSteps
from safediff.models.load import as_backbone, load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.cost import estimate_cost
from safediff.policy.plan import ModelPlan
from safediff.release.layout import write_model
from safediff.sample.sampler import Draw, Sampling, denoise_all, initial_latents
from safediff.workflow.safe_model import patched

# diffusers' DPM solver computes with NumPy on tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
PROMPTS = ["an axe", "A red cup "]
DRAWS = [Draw(prompt) for prompt in PROMPTS]
FLOW = ("sd3", "flux dev")


def scale_of(variant: str) -> float:
    return 1.0 if variant == "flux schnell" else 3.0


@torch.no_grad()
def final_latents(backbone: Backbone, prompts: list[str], sampling: Sampling, **more: Any) -> Any:
    c, c_0 = backbone.encode(prompts), backbone.encode([""]).repeat(len(prompts))
    return denoise_all(backbone, DRAWS, c_0, c, sampling, **more)


@pytest.mark.usefixtures("same_products")
@pytest.mark.parametrize("variant", VARIANTS)
def test_final_latents_are_those_of_the_pipeline(variant: str) -> None:
    found = shared_example(variant)
    steps = 2 if variant == "pixart-alpha 1024" else 5
    sampling = Sampling(num_steps=steps, guidance_scale=scale_of(variant))
    z = initial_latents(DRAWS, found.backbone.latent_shape, sampling.seed)
    expected = found.latents(PROMPTS, scale_of(variant), z, steps)
    ours = final_latents(found.backbone, PROMPTS, sampling)
    assert ours.shape == z.shape
    limit = 1e-5 * expected.std()
    assert (ours - expected).abs().max() <= limit
    # what the text says reaches the latents, so that a wrong text would have been seen
    other = final_latents(found.backbone, PROMPTS[::-1], sampling)
    assert (other - expected).abs().max() > 100 * limit


@pytest.mark.parametrize("variant", FAMILIES)
def test_pictures_are_those_of_the_pipeline(variant: str) -> None:
    found = shared_example(variant)
    sampling = Sampling(num_steps=4, guidance_scale=3.0)
    z = initial_latents(DRAWS, found.backbone.latent_shape, sampling.seed)
    expected = found.latents(PROMPTS, 3.0, z, 4, output_type="pt")
    images, finite = found.backbone.decode(final_latents(found.backbone, PROMPTS, sampling))
    assert finite.all()
    assert (images - 255 * expected).abs().max() < 0.6
    assert images.float().std() > 1


@pytest.mark.usefixtures("same_products")
@pytest.mark.parametrize("variant", ["pixart-sigma", "sd3"])
def test_a_negative_prompt_is_that_of_the_pipeline(variant: str) -> None:
    found = shared_example(variant)
    guard = make_guard("neg", ["knife"])
    sampling = Sampling(num_steps=4, guidance_scale=3.0)
    z = initial_latents(DRAWS, found.backbone.latent_shape, sampling.seed)
    negative = "knife" if variant == "pixart-sigma" else ["knife", "knife"]
    expected = found.latents(PROMPTS, 3.0, z, 4, negative_prompt=negative)
    ours = final_latents(found.backbone, PROMPTS, sampling, guard=guard)
    limit = 1e-5 * expected.std()
    assert (ours - expected).abs().max() <= limit
    assert (final_latents(found.backbone, PROMPTS, sampling) - expected).abs().max() > 100 * limit


@pytest.mark.parametrize("guard", ["neg", "sld-medium", "sega"])
def test_guards_are_refused_where_guidance_is_distilled(guard: str) -> None:
    backbone = shared_example("flux dev").backbone
    with pytest.raises(UsageError, match="its guidance is distilled"):
        final_latents(backbone, PROMPTS, Sampling(num_steps=1), guard=make_guard(guard, ["axe"]))


@pytest.mark.parametrize("guard", ["sld-medium", "sega"])
@pytest.mark.parametrize("variant", ["pixart-alpha", "sd3"])
def test_other_guards_steer_where_it_is_not(guard: str, variant: str) -> None:
    backbone = shared_example(variant).backbone
    sampling = Sampling(num_steps=16, guidance_scale=3.0)
    plain = final_latents(backbone, PROMPTS, sampling)
    steered = final_latents(backbone, PROMPTS, sampling, guard=make_guard(guard, ["knife"]))
    assert steered.isfinite().all()
    assert (steered - plain).abs().max() > 1e-4 * plain.std()


def test_schnell_has_no_scale_to_be_asked_at() -> None:
    backbone = shared_example("flux schnell").backbone
    with pytest.raises(UsageError, match="no guidance"):
        final_latents(backbone, PROMPTS, Sampling(num_steps=1, guidance_scale=3.5))


def test_dev_reads_its_scale() -> None:
    backbone = shared_example("flux dev").backbone
    a, b = (
        final_latents(backbone, PROMPTS, Sampling(num_steps=2, guidance_scale=scale))
        for scale in (1.0, 8.0)
    )
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("variant", FAMILIES)
def test_texts_beyond_the_window_are_refused(variant: str) -> None:
    backbone = shared_example(variant).backbone
    with pytest.raises(UsageError, match="the text encoder reads"):
        backbone.encode(["x" * 80])


@pytest.mark.parametrize("variant", ["pixart-sigma", "sd3", "flux dev"])
def test_a_folder_is_loaded_as_its_family(variant: str, tmp_path: Path) -> None:
    found = example(variant, tmp_path / "tokenizer")
    found.pipeline.save_pretrained(tmp_path / "model")
    loaded = load_backbone(ModelPlan(base=str(tmp_path / "model")))
    assert type(loaded) is type(found.backbone)
    assert not any(p.requires_grad for p in loaded.denoiser.parameters())
    windows = {"pixart-sigma": 300, "sd3": 77 + 256, "flux dev": 512}
    assert loaded.encode(["axe"]).hidden.shape[1] == loaded.num_tokens == windows[variant]


@pytest.mark.parametrize("variant", ["pixart-alpha", "sd3", "flux dev"])
def test_a_release_is_loaded_by_diffusers(variant: str, tmp_path: Path) -> None:
    backbone = example(variant, tmp_path / "tokenizer").backbone
    erased = small_trainer(backbone, replace(SMALL, num_steps=1)).run(lambda info: None)
    safe = patched(backbone, erased.teacher)
    write_model(tmp_path / "model", safe)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "model")
    assert type(pipeline).__name__ == backbone.pipeline_name
    assert unet_sha256(pipeline.transformer) == unet_sha256(safe.denoiser)
    assert unet_sha256(pipeline.transformer) != unet_sha256(backbone.denoiser)
    loaded = load_backbone(ModelPlan(base=str(tmp_path / "model")))
    c, own = loaded.encode(["an axe"]), replace(backbone, window=loaded.window).encode(["an axe"])
    assert torch.equal(c.hidden, own.hidden)


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchHeunDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)],
)
def test_other_steps_are_refused(scheduler: Any, tmp_path: Path) -> None:
    for pipeline in (tiny_sd3(tmp_path), tiny_flux(tmp_path)):
        pipeline.scheduler = scheduler
        with pytest.raises(UsageError, match="FlowMatchEulerDiscreteScheduler without randomness"):
            as_backbone("model", pipeline)


@pytest.mark.parametrize("variant", FLOW)
def test_the_answer_to_noised_latents_stands_for_the_noise(variant: str) -> None:
    backbone = shared_example(variant).backbone
    g = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(3, *backbone.latent_shape, generator=g) for _ in range(2))
    t = torch.tensor([12.5, 500.0, 900.25])
    sigma = (t / 1000).view(-1, 1, 1, 1)
    z = backbone.noised(x, eps, t)
    torch.testing.assert_close(z, (1 - sigma) * x + sigma * eps)
    torch.testing.assert_close(backbone.new_scheduler().add_noise(x, eps, t), z)
    v = backbone.target(x, eps, t)
    torch.testing.assert_close(v, eps - x)
    torch.testing.assert_close(backbone.noise(v, z, t), eps, atol=1e-5, rtol=0)
    # of two answers to one z the noise differs by 1 - sigma: the weight between both losses
    other = v + 1
    difference = backbone.noise(other, z, t) - backbone.noise(v, z, t)
    torch.testing.assert_close(difference, (1 - sigma).expand_as(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["sd3", "sd3 shifted by size", "flux dev", "flux schnell"])
def test_timesteps_lie_between_the_shifted_levels(variant: str) -> None:
    scheduler = shared_example(variant).backbone.rollout_scheduler("ddim")
    assert isinstance(scheduler, FlowSteps)
    scheduler.set_timesteps(8)
    edges = [*(1000 * scheduler.sigmas).tolist()]
    assert edges[0] == pytest.approx(1000)
    assert edges[-1] == 0
    for u in range(8):
        t = scheduler.draw_timestep(u, 4000, torch.Generator().manual_seed(u))
        low, high = edges[u + 1], edges[u]
        assert low <= t.min()
        assert t.max() < high
        assert float(t.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


@pytest.mark.parametrize("variant", VARIANTS)
def test_plans_know_which_guidance_is_distilled(variant: str, tmp_path: Path) -> None:
    found = example(variant, tmp_path)
    found.pipeline.save_config(tmp_path / "model")
    plan = ModelPlan(base=str(tmp_path / "model"))
    assert guidance_is_distilled(plan) == found.backbone.distilled_guidance
    assert found.backbone.distilled_guidance == variant.startswith("flux")


def test_the_plan_counts_one_pass_a_step_for_distilled_guidance(tmp_path: Path) -> None:
    assert guidance_is_distilled(ModelPlan(base="black-forest-labs/FLUX.1-dev"))
    assert not guidance_is_distilled(ModelPlan(base="stabilityai/stable-diffusion-3.5-medium"))
    plan = small_plan(tmp_path, ("targets: [onnx]", "targets: []"))
    usual, distilled = (estimate_cost(plan, flag) for flag in (False, True))
    assert usual.verify_passes == 2 * distilled.verify_passes
    params = resolve(plan.erase.method, plan.erase.preset, plan.erase.options)
    assert isinstance(params, DistilParams)
    # rollouts of 3 steps in two branches, on average; the losses cost the same
    steps = 4 * 2 * (2 * (3 + 1) / 3 - 1)
    assert usual.erase_passes - distilled.erase_passes == round(steps)


@pytest.mark.parametrize("variant", ["pixart-sigma", "sd3.5"])
def test_nothing_is_held_from_step_to_step(variant: str) -> None:
    """Layers named like a UNet's text projections, which read other tensors at every step."""
    network = shared_example(variant).backbone.denoiser
    named = [layer for name, layer in network.named_modules() if name.endswith("attn2.to_k")]
    assert named
    with texts_once(network):
        assert not any("forward" in vars(layer) for layer in named)


def test_packing_is_that_of_the_pipeline(tmp_path: Path) -> None:
    pipeline = tiny_flux(tmp_path)
    z = torch.randn(2, FLOW_CHANNELS, LATENT_SIZE, 6, generator=torch.Generator().manual_seed(0))
    packed = flux.pack(z)
    assert torch.equal(packed, pipeline._pack_latents(z, *z.shape))
    assert torch.equal(flux.unpack(packed, *z.shape[-2:]), z)
    ids = pipeline._prepare_latent_image_ids(2, LATENT_SIZE // 2, 3, "cpu", torch.float32)
    assert torch.equal(flux.positions(LATENT_SIZE // 2, 3, ids.device).float(), ids)
