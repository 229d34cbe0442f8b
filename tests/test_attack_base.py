"""What all attacks have in common: batches, broken denoisers, engines, guards."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_examples import (
    BENIGN,
    CONCEPTS,
    DRAWS,
    JUDGES,
    QUICK,
    SAMPLING,
    concept,
    stack,
    tiny_models,
)
from tiny import tiny_engine
from torch import Tensor

from safediff.attack.base import Attack, Models
from safediff.attack.load import CLASSES, make_attack
from safediff.attack.params import ATTACKS
from safediff.errors import UsageError
from safediff.export.runtime import ExportedUNet
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.sample.draw import Row
from safediff.sample.sampler import Draw, Sampling, sample

NAMES = [name for name, profile in ATTACKS.items() if not profile.other_words]
AT_ONCE = [name for name in NAMES if ATTACKS[name].tier == 1]
ON_ENGINES = [name for name in NAMES if not ATTACKS[name].needs_gradients]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return tiny_models(tmp_path_factory.mktemp("tiny"))


def attack(name: str, models: Models) -> Attack:
    return make_attack(name, models, CONCEPTS, QUICK.get(name, {}), BENIGN, JUDGES)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_does_not_depend_on_its_batch(models: Models, name: str) -> None:
    counts: list[int] = []
    together = stack(attack(name, models).pictures(DRAWS, SAMPLING, counts.append))
    apart = replace(SAMPLING, batch_size=2)
    in_parts = stack(attack(name, models).pictures(DRAWS[::-1], apart, counts.append))
    assert (in_parts.flip(0) - together).abs().max() <= 1
    assert counts == ([1] * 6 if CLASSES[name].one_by_one else [3, 2, 1])


@pytest.mark.parametrize(
    ("name", "num_tries", "sizes"),
    [("noise", 3, {6}), ("classifier-guidance", 4, {8}), ("unlearn-diff-atk", 5, {8, 2})],
)
def test_tries_of_one_picture_share_the_batches(
    models: Models, name: str, num_tries: int, sizes: set[int]
) -> None:
    """Two branches a try, and never more tries than a batch holds, here 4; decoded likewise."""
    asked: set[int] = set()
    decoded: set[int] = set()

    class Watched(torch.nn.Module):
        config, dtype = models.safe.denoiser.config, models.safe.denoiser.dtype

        def forward(self, z: Tensor, t: Tensor, **options: Any) -> tuple[Tensor]:
            if t.ndim == 0:  # a step of a picture, no loss
                asked.add(len(z))
            out: tuple[Tensor] = models.safe.denoiser(z, t, **options)
            return out

    class Decoding:
        config, dtype = models.safe.vae.config, models.safe.vae.dtype

        def decode(self, z: Tensor, **options: Any) -> tuple[Tensor]:
            decoded.add(len(z))
            out: tuple[Tensor] = models.safe.vae.decode(z, **options)
            return out

    safe = replace(models.safe, denoiser=Watched(), vae=Decoding())
    settings = {**QUICK[name], "num_tries": num_tries}
    watched = replace(models, safe=safe)
    made = make_attack(name, watched, CONCEPTS, settings, BENIGN, JUDGES)
    stack(made.pictures(DRAWS[:1], SAMPLING))
    assert asked == sizes
    assert max(decoded) == min(num_tries, SAMPLING.batch_size)


@pytest.mark.parametrize("name", ["classifier-guidance", "fine-tuning", "textual-inversion"])
def test_what_is_trained_does_not_depend_on_the_rows_of_a_table(
    models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on their guidance and seeds, nor on which of them are left to draw."""
    module = importlib.import_module(CLASSES[name].__module__)
    plain, used = module.base_latents, []

    def noting(base: Backbone, draws: list[Draw], sampling: Sampling) -> Tensor:
        used.append(sampling)
        found: Tensor = plain(base, draws, sampling)
        return found

    monkeypatch.setattr(module, "base_latents", noting)
    rows = {"an axe": Row(seed=5, guidance_scale=2.0), "axe, red": Row(guidance_scale=3.0)}
    tabled = replace(SAMPLING, rows=rows)
    together = stack(attack(name, models).pictures(DRAWS, tabled))
    assert len(used) == (2 if name == "textual-inversion" else 1)  # once a concept
    left = stack(attack(name, models).pictures(DRAWS[1:], tabled))
    assert (left - together[1:]).abs().max() <= 1
    elsewhere = replace(SAMPLING, seed=SAMPLING.seed + 1)
    assert all(sampling == elsewhere for sampling in used)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_changes_the_picture(models: Models, name: str) -> None:
    direct = stack(sample(models.safe, DRAWS, SAMPLING))
    assert (stack(attack(name, models).pictures(DRAWS, SAMPLING)) - direct).abs().max() > 1


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_broken_denoiser_shows_nothing(models: Models, name: str) -> None:
    class Broken(torch.nn.Module):
        def __init__(self, unet: Any) -> None:
            super().__init__()
            self.unet, self.config = unet, unet.config

        def forward(self, z: Tensor, t: Tensor, **options: Any) -> tuple[Tensor]:
            (eps,) = self.unet(z, t, **options)
            eps = eps.clone()
            eps[1] = torch.nan
            return (eps,)

    base, safe = (m.with_denoiser(Broken(m.denoiser)) for m in (models.base, models.safe))
    (pictures,) = attack(name, Models(base=base, safe=safe)).pictures(DRAWS, SAMPLING)
    assert [picture.finite for picture in pictures] == [True, False, True]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(AT_ONCE)))
def test_a_search_that_finds_no_numbers_shows_nothing(models: Models, name: str) -> None:
    """It must not look like a model that resisted."""

    class Broken(torch.nn.Module):
        def __init__(self, unet: Any) -> None:
            super().__init__()
            self.unet, self.config = unet, unet.config

        def forward(self, z: Tensor, t: Tensor, **options: Any) -> tuple[Tensor]:
            (eps,) = self.unet(z, t, **options)
            return (eps * torch.nan,)

    broken = replace(models, safe=models.safe.with_denoiser(Broken(models.safe.denoiser)))
    pictures = [p for batch in attack(name, broken).pictures(DRAWS, SAMPLING) for p in batch]
    assert [picture.finite for picture in pictures] == [False] * 3


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ON_ENGINES)))
def test_an_engine_gives_no_gradients(models: Models, name: str) -> None:
    engine = models.base.with_denoiser(ExportedUNet(tiny_engine(), num_threads=1))
    reason = attack(name, Models(base=models.base, safe=engine)).obstacle()
    assert reason == "it needs gradients of the UNet, which a compiled engine does not give"
    assert attack(name, models).obstacle() is None


@pytest.mark.parametrize("name", NAMES)
def test_texts_about_minors_are_no_targets(models: Models, name: str) -> None:
    for concepts, benign in (
        ({"a toddler": concept("axe", "axe")}, BENIGN),
        ({"an axe": concept("axe", "a toddler")}, BENIGN),
        (CONCEPTS, ("owl", "toddler")),
    ):
        with pytest.raises(UsageError, match="can denote a minor"):
            make_attack(name, models, concepts, {}, benign, JUDGES)


@pytest.mark.parametrize("name", ON_ENGINES)
def test_an_engine_is_attacked_as_its_weights_are(models: Models, name: str) -> None:
    """The engine of the examples holds the base's weights; the edited model stands for the base."""
    engine = models.base.with_denoiser(ExportedUNet(tiny_engine(), num_threads=1))
    found, expected = (
        stack(attack(name, Models(base=models.safe, safe=safe)).pictures(DRAWS, SAMPLING))
        for safe in (engine, models.base)
    )
    assert (found - expected).abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_guard_stays_on(models: Models, name: str) -> None:
    guarded = replace(models, guard=make_guard("sld-max", ["axe"]))
    plain = attack(name, models).latents(DRAWS, SAMPLING)
    assert (attack(name, guarded).latents(DRAWS, SAMPLING) - plain).abs().max() > 1e-3


def test_a_guard_reads_its_own_texts_unattacked(models: Models) -> None:
    """Its text may be spelt like a prompt; the adversary changes the prompt's states only."""
    guarded = replace(models, guard=make_guard("neg", ["an axe"]))
    seen: list[Tensor] = []

    class Watched(torch.nn.Module):
        config = models.safe.denoiser.config

        def forward(self, z: Tensor, t: Tensor, **options: Any) -> tuple[Tensor]:
            seen.append(options["encoder_hidden_states"])
            out: tuple[Tensor] = models.safe.denoiser(z, t, **options)
            return out

    watched = replace(guarded, safe=models.safe.with_denoiser(Watched()))
    attack("ring-a-bell-embedding", watched).latents(DRAWS, SAMPLING)
    negative, asked = seen[0].chunk(2)
    expected = models.safe.encode(["an axe"]).hidden
    assert torch.equal(negative, expected.expand_as(negative))
    assert (asked[:1] - expected).abs().max() > 0.1
