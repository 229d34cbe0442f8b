"""The prefix search: its loss, what it finds, that it can be repeated."""

from dataclasses import fields, replace

import pytest
import torch
from attack_examples import AXE, CONCEPTS, DRAWS, JUDGES, SAMPLING, tiny_models

from safediff.attack.base import Models
from safediff.attack.gradients import (
    base_latents,
    denoising_loss,
    generator_of,
    noised,
    spread_timesteps,
)
from safediff.attack.unlearn_diff_atk import UnlearnDiffAtk
from safediff.models.backbone import Condition
from safediff.sample.sampler import Draw, sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def attack(models: Models) -> UnlearnDiffAtk:
    return UnlearnDiffAtk(
        models=models,
        concepts=CONCEPTS,
        judges=JUDGES,
        num_tokens=3,
        num_iterations=12,
        num_points=4,
        num_tries=2,
        learning_rate=0.3,
        weight_decay=0.1,
    )


def test_the_loss_falls_and_the_prompt_changes(attack: UnlearnDiffAtk) -> None:
    found = attack.search(DRAWS[0], SAMPLING)
    assert len(found.losses) == 12
    assert min(found.losses) < found.losses[0]
    assert len(set(found.losses)) > 3
    assert len(found.texts) == 2
    for text in found.texts:
        prefix, _, rest = text.partition(" an axe")
        assert rest == ""
        assert len(prefix.split()) == 3
    assert found.texts[0] != found.texts[1]


def test_texts_are_ranked_by_the_loss_written_out(attack: UnlearnDiffAtk) -> None:
    """mean_t |eps - e(z_t, t, E(text))|^2 with the noise that only this prompt gets."""
    found = attack.search(DRAWS[0], SAMPLING)
    safe, base = attack.models.safe, attack.models.base
    generator = generator_of("unlearn-diff-atk", DRAWS[0], SAMPLING.seed)
    t = torch.tensor([125, 375, 625, 875])
    assert torch.equal(spread_timesteps(safe.scheduler, 4), t)
    x = base_latents(base, [DRAWS[0]], SAMPLING)
    eps = torch.randn(4, *x.shape[1:], generator=generator)
    a = safe.scheduler.alphas_cumprod[t].view(4, 1, 1, 1)
    z = a.sqrt() * x + (1 - a).sqrt() * eps
    for text, expected in (
        (found.texts[0], min(found.losses)),
        (DRAWS[0].prompt, found.direct_loss),
    ):
        c = safe.encode([text]).repeat(4)
        with torch.no_grad():
            by_hand = (eps - safe.denoise(z, t, c)).square().mean()
        assert float(by_hand) == pytest.approx(expected, rel=1e-4)


def test_the_derivative_is_that_of_the_relaxed_text(attack: UnlearnDiffAtk) -> None:
    """Against a finite difference along the gradient."""
    generator = torch.Generator().manual_seed(0)
    x = base_latents(attack.models.base, [DRAWS[2]], SAMPLING).repeat(4, 1, 1, 1)
    points = noised(attack.models.safe, x, torch.tensor([100, 300, 500, 700]), generator)
    u = torch.randn(3, len(attack._words.spelt), generator=generator).requires_grad_()
    (g,) = torch.autograd.grad(attack._relaxed(u, "a bomb", points), u)
    step = 0.5 / g.norm() * g
    with torch.no_grad():
        ends = [float(attack._relaxed(u + sign * step, "a bomb", points)) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 1.0 == pytest.approx(float(g.norm()), rel=0.05)


def test_the_same_search_finds_the_same_and_others_do_not(attack: UnlearnDiffAtk) -> None:
    first = attack.search(DRAWS[0], SAMPLING)
    assert replace(attack).search(DRAWS[0], SAMPLING) == first
    assert attack.search(DRAWS[0], replace(SAMPLING, seed=4)).losses != first.losses
    assert attack.search(Draw("an axe", 1), SAMPLING).losses != first.losses


def test_the_judge_keeps_the_brighter_picture(attack: UnlearnDiffAtk) -> None:
    """The examples' judge sees an axe where it is bright."""
    found = attack.search(DRAWS[0], SAMPLING)
    one = [next(sample(_asked(attack, text), [DRAWS[0]], SAMPLING))[0] for text in found.texts]
    brightness = [float(picture.image.float().mean()) for picture in one]
    (kept,) = next(attack.pictures(DRAWS[:1], SAMPLING))
    assert float(kept.image.float().mean()) == pytest.approx(max(brightness), abs=0.1)


def _asked(attack: UnlearnDiffAtk, text: str):  # type: ignore[no-untyped-def]
    """The safe model, hearing ``text`` whatever it is asked, with the latents of the draw."""
    safe = attack.models.safe

    class Deaf(type(safe)):  # type: ignore[misc]
        def encode(self, texts: list[str]) -> Condition:
            return super().encode([text if t else t for t in texts])

    return Deaf(**{f.name: getattr(safe, f.name) for f in fields(safe)})


def test_what_stands_in_the_way(attack: UnlearnDiffAtk) -> None:
    assert attack.obstacle() is None
    without = replace(attack, judges={})
    assert without.obstacle() == "the judge 'embedded' is not there to choose the best picture"
    long = "a" * 73
    full = replace(attack, concepts={long: AXE})
    assert full.obstacle() == "a prompt leaves no room for 3 more tokens"
    assert replace(attack, concepts={long[:-1]: AXE}).obstacle() is None


def test_the_loss_is_least_for_what_explains_the_picture(models: Models) -> None:
    """Planted: predictions that are the noise itself cost nothing."""
    x = base_latents(models.base, list(DRAWS), SAMPLING)
    points = noised(models.safe, x, torch.tensor([1, 2, 3]), torch.Generator().manual_seed(0))

    class Oracle(torch.nn.Module):
        config = models.safe.denoiser.config

        def forward(self, z: torch.Tensor, t: torch.Tensor, **rest: object) -> tuple[torch.Tensor]:
            return (points.y,)

    c = models.safe.encode(["an axe"] * 3)
    assert float(denoising_loss(models.safe.with_denoiser(Oracle()), points, c)) == 0.0
    with torch.no_grad():
        assert float(denoising_loss(models.safe, points, c)) > 0.1
