"""The hash of all that draws beside the denoiser: equal for equal parts, and only for them."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from serving_examples import base_folder
from tiny import tiny_unet, tiny_xl_backbone
from tiny_transformers import tiny_flux, tiny_pixart, tiny_sd3
from torch import nn
from transformers import CLIPTokenizer

from safediff.models.backbone import Backbone
from safediff.models.load import as_backbone, load_backbone
from safediff.models.parts_hash import part_sha256, parts_sha256
from safediff.policy.plan import ModelPlan


@pytest.fixture(scope="module")
def model() -> Backbone:
    return load_backbone(ModelPlan(base=str(base_folder())))


def test_a_folder_has_one_hash_wherever_it_lies(model: Backbone, tmp_path: Path) -> None:
    moved = load_backbone(ModelPlan(base=str(shutil.copytree(base_folder(), tmp_path / "moved"))))
    expected = parts_sha256(model)
    assert parts_sha256(moved) == expected
    moved.encode(["an owl", "a"])
    moved.tokenizer("a", padding="max_length", truncation=True, max_length=9)
    moved.decode(torch.zeros(1, 4, 8, 8))
    moved.new_scheduler().set_timesteps(4)
    assert parts_sha256(moved) == expected


def test_the_denoiser_has_a_hash_of_its_own(model: Backbone) -> None:
    assert parts_sha256(model.with_denoiser(tiny_unet(seed=9))) == parts_sha256(model)


def nudged(module: nn.Module) -> nn.Module:
    """A copy in which the last number of the last tensor is another one."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        list(other.parameters())[-1].view(-1)[-1] += 1
    return other


def tokenizer_of(**settings: Any) -> Any:
    return CLIPTokenizer.from_pretrained(base_folder() / "tokenizer", **settings)


def rescaled(model: Backbone) -> Any:
    vae = copy.deepcopy(model.vae)
    vae.register_to_config(scaling_factor=0.5)
    return vae


def activated(model: Backbone) -> Any:
    encoder = copy.deepcopy(model.text_encoder)
    encoder.config.hidden_act = "gelu"
    return encoder


def stepped(model: Backbone, cls: Any = DDIMScheduler, **settings: Any) -> Any:
    return cls.from_config(model.scheduler.config, **settings)


CHANGES: dict[str, Callable[[Backbone], dict[str, Any]]] = {
    "text encoder": lambda m: {"text_encoder": nudged(m.text_encoder)},
    "its activation": lambda m: {"text_encoder": activated(m)},
    "its precision": lambda m: {"text_encoder": copy.deepcopy(m.text_encoder).bfloat16()},
    "autoencoder": lambda m: {"vae": nudged(m.vae)},
    "its scale": lambda m: {"vae": rescaled(m)},
    "scheduler": lambda m: {"scheduler": stepped(m, PNDMScheduler)},
    "its steps": lambda m: {"scheduler": stepped(m, timestep_spacing="trailing")},
    "window": lambda m: {"tokenizer": tokenizer_of(model_max_length=40)},
    "padding": lambda m: {"tokenizer": tokenizer_of(model_max_length=77, pad_token="!")},
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_other_part_changes_it(model: Backbone, what: str) -> None:
    assert parts_sha256(replace(model, **CHANGES[what](model))) != parts_sha256(model)


def test_other_words_change_it(model: Backbone, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder() / "tokenizer", tmp_path / "tokenizer")
    same = CLIPTokenizer.from_pretrained(folder)
    assert part_sha256(same) == part_sha256(model.tokenizer)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    read = json.loads(text)
    words = read["model"]["vocab"]
    words["a</w>"], words["b</w>"] = words["b</w>"], words["a</w>"]
    (folder / "tokenizer.json").write_text(json.dumps(read), encoding="utf-8")
    assert part_sha256(CLIPTokenizer.from_pretrained(folder)) != part_sha256(model.tokenizer)


def families(folder: Path) -> list[Backbone]:
    made = [tiny_pixart(), tiny_sd3(folder / "3"), tiny_flux(folder / "f")]
    return [tiny_xl_backbone(folder / "xl"), *(as_backbone("tiny", one) for one in made)]


def test_all_families_have_one(tmp_path: Path) -> None:
    found = families(tmp_path)
    assert len({parts_sha256(one) for one in found}) == len(found)
    xl, *_ = found
    assert parts_sha256(replace(xl, zero_null=False)) != parts_sha256(xl)  # type: ignore[call-arg]


def test_parts_that_models_share_are_hashed_once(model: Backbone) -> None:
    seen: list[Any] = []

    def noting(part: Any) -> str:
        seen.append(part)
        return part_sha256(part)

    remembering = cache(noting)
    erased = model.with_denoiser(tiny_unet(seed=9))
    found = {parts_sha256(one, remembering) for one in (model, erased)}
    assert found == {parts_sha256(model)}
    assert sum(part is model.text_encoder for part in seen) == 1
