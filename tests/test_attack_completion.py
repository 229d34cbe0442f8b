"""Completion: who runs which step, and that the hand-over loses nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_examples import CONCEPTS, DRAWS, PROMPTS, SAMPLING, counted, stack, tiny_models
from diffusers import HeunDiscreteScheduler, PNDMScheduler
from torch import Tensor

from safediff.attack.base import Models
from safediff.attack.completion import Completion
from safediff.errors import UsageError
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.sample.sampler import initial_latents, sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def completion(models: Models, base_share: float = 0.25) -> Completion:
    return Completion(models=models, concepts=CONCEPTS, base_share=base_share)


def test_the_base_runs_the_first_steps_and_the_safe_model_the_rest(models: Models) -> None:
    counting, log = counted(models)
    completion(counting).latents(DRAWS, SAMPLING)
    assert [name for name, _, _ in log] == ["base"] * 2 + ["safe"] * 6
    scheduler = models.base.new_scheduler()
    scheduler.set_timesteps(SAMPLING.num_steps)
    assert [t for _, t, _ in log] == scheduler.timesteps.tolist()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("cls", "evaluations"), [(PNDMScheduler, (3, 6)), (HeunDiscreteScheduler, (4, 11))]
)
def test_the_hand_over_is_after_whole_steps(
    models: Models, cls: Any, evaluations: tuple[int, int]
) -> None:
    """Of solvers that ask more than once for a step: no model goes on from the other's trial."""
    own = cls.from_config(models.base.scheduler.config, clip_sample=False, skip_prk_steps=True)
    base, safe = (replace(model, scheduler=own) for model in _both(models))
    counting, log = counted(Models(base=base, safe=safe))
    completion(counting).latents(DRAWS, SAMPLING)
    own = safe.new_scheduler()
    own.set_timesteps(SAMPLING.num_steps)
    levels = [*dict.fromkeys(own.timesteps.int().tolist())]
    seen = {who: [t for name, t, _ in log if name == who] for who in ("base", "safe")}
    assert (len(seen["base"]), len(seen["safe"])) == evaluations
    assert [*dict.fromkeys(seen["safe"])] == levels[2:]


def test_one_step_is_refused(models: Models) -> None:
    with pytest.raises(UsageError, match="shares the steps of a picture: 1 is too few"):
        completion(models).latents(DRAWS, replace(SAMPLING, num_steps=1))


@torch.no_grad()
def test_latents_follow_ddim_by_hand(models: Models) -> None:
    """Eq. 12 of DDIM (arXiv:2010.02502) with sigma 0, written out."""
    found = completion(models).latents(DRAWS, SAMPLING)
    scheduler = models.base.new_scheduler()
    scheduler.set_timesteps(SAMPLING.num_steps)
    stride = 1000 // SAMPLING.num_steps
    z = initial_latents(DRAWS, models.base.latent_shape, SAMPLING.seed)
    for step, t in enumerate(scheduler.timesteps.tolist()):
        model = models.base if step < 2 else models.safe
        eps = _guided(model, z, t)
        a = scheduler.alphas_cumprod[t]
        prev = t - stride
        a_prev = scheduler.alphas_cumprod[prev] if prev >= 0 else scheduler.final_alpha_cumprod
        z_0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
        z = a_prev.sqrt() * z_0 + (1 - a_prev).sqrt() * eps
    assert torch.allclose(found, z, atol=1e-4)


def _guided(model: Backbone, z: Tensor, t: int) -> Tensor:
    c = model.encode(PROMPTS)
    c_0 = model.encode([""]).repeat(len(PROMPTS))
    time = torch.tensor(t)
    e_0, e_c = model.denoise(z, time, c_0), model.denoise(z, time, c)
    return e_0 + SAMPLING.guidance_scale * (e_c - e_0)


def test_a_base_that_completes_itself_is_asked_directly(models: Models) -> None:
    same = Models(base=models.base, safe=models.base)
    direct = stack(sample(models.base, DRAWS, SAMPLING))
    assert torch.equal(stack(completion(same).pictures(DRAWS, SAMPLING)), direct)


@pytest.mark.parametrize("share", [0.125, 0.5])
def test_it_lies_between_the_two_models(models: Models, share: float) -> None:
    attacked = completion(models, share).latents(DRAWS, SAMPLING)
    ends = [completion(Models(base=m, safe=m)).latents(DRAWS, SAMPLING) for m in _both(models)]
    assert all((attacked - end).abs().max() > 1e-3 for end in ends)


def _both(models: Models) -> tuple[Backbone, Backbone]:
    return models.base, models.safe


@pytest.mark.parametrize("name", ["neg", "sld-max"])
def test_the_guard_steers_only_the_safe_model(models: Models, name: str) -> None:
    """With another base the first steps change, with another guard they do not."""
    guarded = Models(base=models.base, safe=models.safe, guard=make_guard(name, ["axe"]))
    seen: list[Tensor] = []
    first = completion(_watched(guarded, seen.append), 0.25)
    first.latents(DRAWS, SAMPLING)
    plain: list[Tensor] = []
    completion(_watched(models, plain.append), 0.25).latents(DRAWS, SAMPLING)
    assert all(torch.equal(a, b) for a, b in zip(seen[:2], plain[:2], strict=True))
    assert torch.equal(seen[2][: len(DRAWS)], plain[2][: len(DRAWS)])
    assert not torch.equal(seen[3][: len(DRAWS)], plain[3][: len(DRAWS)])


def _watched(models: Models, note: Callable[[Tensor], None]) -> Models:
    """The same, with every input of either UNet noted."""

    class Watched:
        def __init__(self, unet: Any) -> None:
            self.unet, self.config = unet, unet.config

        def __call__(self, z: Tensor, t: Tensor, **options: Any) -> Any:
            note(z)
            return self.unet(z, t, **options)

    base, safe = (m.with_denoiser(Watched(m.denoiser)) for m in _both(models))
    return Models(base=base, safe=safe, guard=models.guard)
