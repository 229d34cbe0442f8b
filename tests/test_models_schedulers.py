"""Schedulers that a policy names: diffusers' own pipeline draws the same; noise is per picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
)
from gate_examples import make_plan
from tiny import tiny_pipeline, tiny_unet, tiny_v_pipeline, tiny_xl_pipeline
from torch import Tensor

from safediff.erase.losses import null_drift as logged_drift
from safediff.erase.params import DistilParams
from safediff.erase.possible import require_erasable
from safediff.erase.rollout import State, rollout
from safediff.erase.trainer import DistilTrainer
from safediff.errors import UsageError
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.models.load import as_backbone
from safediff.models.schedulers import max_num_steps, scheduler_like
from safediff.policy.plan import QualityCheck, SchedulerName
from safediff.sample.own_noise import noise_sources
from safediff.sample.sampler import Draw, Sampling, denoise_all, initial_latents
from safediff.verify.drift import null_drift
from safediff.verify.scales import require_levels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm-solver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
}
NOISY = ("euler-ancestral", "lcm", "tcd")
DRAWS = [Draw("an axe"), Draw("owl"), Draw("owl", 1)]
FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd": tiny_pipeline,
    "sd-v": tiny_v_pipeline,
    "sdxl": tiny_xl_pipeline,
}


@pytest.fixture(scope="module", params=FAMILIES)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = FAMILIES[request.param](tmp_path_factory.mktemp("words"))
    found.set_progress_bar_config(disable=True)
    return found


def drawn(backbone: Backbone, scale: float = 3.0, draws: list[Draw] = DRAWS) -> Tensor:
    null = backbone.null().repeat(len(draws))
    c = backbone.encode([draw.prompt for draw in draws])
    return denoise_all(backbone, draws, null, c, Sampling(num_steps=4, guidance_scale=scale))


def drawn_by_diffusers(pipeline: Any, scheduler: Any, scale: float) -> Tensor:
    own, pipeline.scheduler = pipeline.scheduler, scheduler
    latents = initial_latents(DRAWS, (4, 8, 8), 0)
    try:
        found: Tensor = pipeline(
            [draw.prompt for draw in DRAWS],
            num_inference_steps=4,
            guidance_scale=scale,
            latents=latents,
            generator=noise_sources(latents),
            output_type="latent",
            # DDIM's and TCD's, which this pipeline would set to 0
            **({"eta": 0.3} if isinstance(scheduler, TCDScheduler) else {}),
        ).images
    finally:
        pipeline.scheduler = own
    return found


def test_every_name_is_tried_here() -> None:
    assert {*CLASSES, "model"} == {*get_args(SchedulerName)}


@torch.no_grad()
@pytest.mark.parametrize("scale", [3.0, 0.0])
@pytest.mark.parametrize("name", CLASSES)
def test_latents_are_those_of_diffusers(pipeline: Any, name: SchedulerName, scale: float) -> None:
    """With guidance, and with none: then the empty prompt is not asked at all."""
    own = as_backbone("tiny", pipeline)
    found = drawn(own.with_scheduler(name), scale)
    reference = CLASSES[name].from_config(own.scheduler.config, clip_sample=False)
    expected = drawn_by_diffusers(pipeline, reference, scale)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    if name not in ("ddim", "euler"):  # which are the same steps, written in two ways
        assert (found - drawn(own, scale)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("name", NOISY)
def test_a_picture_is_the_same_in_any_batch(pipeline: Any, name: SchedulerName) -> None:
    noisy = as_backbone("tiny", pipeline).with_scheduler(name)
    together = drawn(noisy)
    for row, draw in enumerate(DRAWS):
        alone = drawn(noisy, draws=[draw])
        assert (alone - together[row]).abs().max() <= 1e-5 * together.abs().max()
    quiet = as_backbone("tiny", pipeline).with_scheduler("ddim")
    assert (drawn(quiet) - together).abs().max() > 1e-2
    other = noisy.with_denoiser(tiny_unet(xl=hasattr(noisy, "text_encoder_2"), seed=3))
    torch.manual_seed(0)
    one = null_drift(noisy, other)
    torch.manual_seed(1)
    assert null_drift(noisy, other) == one
    assert all(drift > 1e-3 for _, drift in one)


@torch.no_grad()
def test_no_guidance_is_one_branch(pipeline: Any) -> None:
    rows: list[int] = []
    backbone = as_backbone("tiny", pipeline)
    hook = pipeline.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        drawn(backbone, 1.0)
        drawn(backbone, 1.5)
    finally:
        hook.remove()
    assert rows == [3] * 4 + [6] * 4


def test_a_guard_without_guidance_is_refused(pipeline: Any) -> None:
    backbone = as_backbone("tiny", pipeline)
    c = backbone.encode(["axe"])
    with pytest.raises(UsageError, match=r"'neg' steers guidance, and a scale of 1\.0 has none"):
        denoise_all(
            backbone,
            DRAWS[:1],
            backbone.null(),
            c,
            Sampling(num_steps=2, guidance_scale=1.0),
            make_guard("neg", ["axe"]),
        )


PARAMS = DistilParams(num_inference_steps=4, guidance_scale=3.0, reuse=1)


@torch.no_grad()
@pytest.mark.usefixtures("same_products")
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm-solver++", "lcm"])
def test_rollouts_are_the_beginning_of_a_picture(pipeline: Any, name: SchedulerName) -> None:
    """The state is what the denoiser gets next, from a trajectory taken by hand."""
    backbone = as_backbone("tiny", pipeline)
    params = replace(PARAMS, rollout_scheduler=name, loss_timestep="step")
    c_0, c = (backbone.encode([text]).repeat(2) for text in ("", "axe"))

    def states(of: Backbone, settings: DistilParams) -> list[Any]:
        return [*rollout(of, c_0, c, [0, 2], settings, torch.Generator().manual_seed(5))]

    first, later = states(backbone, params)
    scheduler = CLASSES[name].from_config(backbone.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(4)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    sources = noise_sources(noise)
    options = {"generator": sources} if name == "lcm" else {}
    z = noise * scheduler.init_noise_sigma
    seen = [scheduler.scale_model_input(z, scheduler.timesteps[0])]
    for t in scheduler.timesteps[:2]:
        z_in = scheduler.scale_model_input(z, t)
        e_0, e_c = backbone.denoise(z_in, t, c_0), backbone.denoise(z_in, t, c)
        z = scheduler.step(e_0 + 3 * (e_c - e_0), t, z, return_dict=False, **options)[0]
    seen.append(scheduler.scale_model_input(z, scheduler.timesteps[2]))
    for state, expected, t in zip(
        (first, later), seen, (scheduler.timesteps[0], scheduler.timesteps[2]), strict=True
    ):
        assert (state.z - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert state.t.tolist() == [t.item()] * 2
    as_model = states(backbone.with_scheduler(name), replace(params, rollout_scheduler="model"))
    assert torch.equal(as_model[1].z, later.z)


@torch.no_grad()
@pytest.mark.parametrize(
    ("cls", "evaluations"), [(PNDMScheduler, [0, 2, 3, 4]), (HeunDiscreteScheduler, [0, 2, 4, 6])]
)
def test_rollouts_stop_after_whole_steps(pipeline: Any, cls: Any, evaluations: list[int]) -> None:
    """Of solvers that ask more than once for a step; every level of noise is visited."""
    backbone = as_backbone("tiny", pipeline)
    own = cls.from_config(backbone.scheduler.config, clip_sample=False, skip_prk_steps=True)
    backbone = replace(backbone, scheduler=own)
    params = replace(PARAMS, rollout_scheduler="model", loss_timestep="step")
    c_0, c = (backbone.encode([text]).repeat(2) for text in ("", "axe"))
    settings = (c_0, c, [0, 1, 2, 3])
    found = [*rollout(backbone, *settings, params, torch.Generator().manual_seed(5))]
    own.set_timesteps(4)
    levels = [*dict.fromkeys(own.timesteps.tolist())]
    assert [state.t.tolist() for state in found] == [[level] * 2 for level in levels]
    assert [state.num_evaluations for state in found] == evaluations
    scheduler = cls.from_config(own.config)
    scheduler.set_timesteps(4)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    z = z * scheduler.init_noise_sigma
    for t in scheduler.timesteps[:-1]:
        z_in = scheduler.scale_model_input(z, t)
        e_0, e_c = backbone.denoise(z_in, t, c_0), backbone.denoise(z_in, t, c)
        z = scheduler.step(e_0 + 3 * (e_c - e_0), t, z, return_dict=False)[0]
    expected = scheduler.scale_model_input(z, scheduler.timesteps[-1])
    assert (found[-1].z - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_bins_of_plms_hold_the_level_that_was_reached(pipeline: Any) -> None:
    backbone = as_backbone("tiny", pipeline)
    own = PNDMScheduler.from_config(backbone.scheduler.config, skip_prk_steps=True, steps_offset=1)
    backbone = replace(backbone, scheduler=own)
    params = replace(PARAMS, rollout_scheduler="model", num_inference_steps=10)
    c_0, c = (backbone.encode([text]).repeat(2) for text in ("", "axe"))
    steps = [*range(10)]
    by_level = [
        [*rollout(backbone, c_0, c, steps, settings, torch.Generator().manual_seed(5))]
        for settings in (params, replace(params, loss_timestep="step"))
    ]
    for drawn_t, at_level in zip(*by_level, strict=True):
        assert (drawn_t.t // 100).tolist() == (at_level.t // 100).tolist()


def test_noise_that_depends_on_the_batch_is_refused(pipeline: Any) -> None:
    backbone = as_backbone("tiny", pipeline)
    own = type("DPMSolverSDEScheduler", (EulerDiscreteScheduler,), {})
    with pytest.raises(UsageError, match="draws the noise of a whole batch at once"):
        scheduler_like("model", own.from_config(backbone.scheduler.config))
    assert isinstance(
        scheduler_like("ddim", own.from_config(backbone.scheduler.config)), DDIMScheduler
    )


def test_models_without_a_noise_schedule_keep_their_own_steps() -> None:
    own = FlowMatchEulerDiscreteScheduler()
    assert scheduler_like("model", own) is own
    with pytest.raises(
        UsageError, match="FlowMatchEulerDiscreteScheduler, which 'ddim' cannot"
    ) as err:
        scheduler_like("ddim", own)
    assert "set erase.options.loss_timestep: step" in err.value.next_step


def test_timesteps_that_the_model_does_not_count_in_are_refused(pipeline: Any) -> None:
    """EDM's are logarithms of its levels: a network that gets 0 to 999 never saw such a number."""
    edm = replace(as_backbone("tiny", pipeline), scheduler=EDMEulerScheduler())
    bins = replace(PARAMS, rollout_scheduler="model")
    with pytest.raises(UsageError, match="which EDMEulerScheduler does not count in") as caught:
        require_erasable(edm, (), bins)
    assert caught.value.next_step == "set erase.options.loss_timestep: step"
    with pytest.raises(UsageError, match="which EDMEulerScheduler does not count in"):
        DistilTrainer(edm, (), (), bins, seed=0)
    require_erasable(edm, (), replace(bins, loss_timestep="step"))


def test_rollouts_of_more_steps_than_the_scheduler_takes_are_refused(pipeline: Any) -> None:
    lcm = as_backbone("tiny", pipeline).with_scheduler("lcm")
    long = replace(PARAMS, rollout_scheduler="model", num_inference_steps=51)
    said = r"num_inference_steps: 51, but the LCMScheduler takes at most 50"
    with pytest.raises(UsageError, match=said):
        require_erasable(lcm, (), long)
    with pytest.raises(UsageError, match=said):
        DistilTrainer(lcm, (), (), long, seed=0)
    require_erasable(lcm, (), replace(long, num_inference_steps=50))
    require_erasable(lcm, (), replace(long, rollout_scheduler="ddim"))


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler(), EDMDPMSolverMultistepScheduler()])
def test_drift_and_attacks_need_levels_that_edm_does_not_say(pipeline: Any, scheduler: Any) -> None:
    edm = replace(as_backbone("tiny", pipeline), scheduler=scheduler)
    z = torch.zeros(1, *edm.latent_shape)
    line = f"{type(scheduler).__name__} .EDM. do not say .* neither drift nor attacks"
    with pytest.raises(UsageError, match=line):
        edm.noised(z, z, torch.tensor([1]))
    plan = make_plan()
    require_levels(plan, edm)
    asked = QualityCheck(metric="null_drift", limit=1.0, line=0)
    plan = replace(plan, verify=replace(plan.verify, quality=(asked,)))
    with pytest.raises(UsageError, match=line):
        require_levels(plan, edm)
    state = State(torch.randn(1, *edm.latent_shape), torch.tensor([1.0]), 1)
    assert logged_drift(edm, edm, state, edm.null()) == 0  # of a training, for its log


@pytest.mark.parametrize("name", CLASSES)
def test_the_most_steps_that_a_scheduler_takes(tmp_path: Path, name: SchedulerName) -> None:
    config = tiny_pipeline(tmp_path).scheduler.config
    own = LCMScheduler.from_config(config, original_inference_steps=40)
    found = scheduler_like(name, own)  # all hold LCM's setting in their configuration
    assert found.config["original_inference_steps"] == 40
    most = max_num_steps(found)
    assert most == (40 if name in ("lcm", "tcd") else 1000)
    if most < 1000:
        found.set_timesteps(most)
        with pytest.raises(ValueError, match="smaller than `num_inference_steps`"):
            found.set_timesteps(most + 1)
