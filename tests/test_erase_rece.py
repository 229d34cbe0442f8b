"""RECE: the way back to a concept is found in closed form, and closed by further edits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closed_form_examples import (
    CONCEPTS,
    ERASED,
    KEEP,
    distance,
    frozen_backbone,
    guides_of,
    random,
    rows_of,
    solve,
    stored,
    worst,
    xl_backbone,
)
from torch import Tensor

from safediff.erase.closed_form.attack import closed_form_attack
from safediff.erase.closed_form.params import ReceParams
from safediff.erase.closed_form.rece import rece
from safediff.erase.closed_form.uce import uce
from safediff.models.backbone import Backbone
from safediff.models.patch import unet_sha256

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def attack_by_regression(edited: Weights, original: Weights, c: Tensor, reg: float) -> Tensor:
    """c' by a regression over the stacked matrices; rows of ``c`` are tokens."""
    width = c.shape[1]
    rows = np.concatenate([*(w.numpy() for w in edited.values()), reg**0.5 * np.eye(width)])
    targets = np.concatenate(
        [*((w @ c.T).numpy() for w in original.values()), np.zeros((width, len(c)))]
    )
    return torch.from_numpy(np.linalg.lstsq(rows, targets)[0].T)


@pytest.mark.parametrize("reg", [0.1, 1e-3])
def test_attack_solves_the_regression(reg: float) -> None:
    edited = {str(i): random(6, 16, seed=i) for i in range(4)}
    original = {str(i): random(6, 16, seed=10 + i) for i in range(4)}
    c = random(5, 16, seed=20)
    found = closed_form_attack(edited, original, c, reg)
    assert distance(found, attack_by_regression(edited, original, c, reg)) < 1e-9
    assert distance(found, attack_by_regression(original, edited, c, reg)) > 0.1
    assert distance(found, attack_by_regression(edited, original, c, 2 * reg)) > 1e-5


def test_attack_keeps_shape_and_type(backbone: Backbone) -> None:
    c = backbone.encode(ERASED).hidden
    edited = {name: w.float() + 0.1 for name, w in stored(backbone).items()}
    found = closed_form_attack(edited, stored(backbone), c, 0.1)
    assert found.shape == c.shape == (3, 77, 16)
    assert found.dtype == torch.float32
    alone = closed_form_attack(edited, stored(backbone), c[1, 4], 0.1)
    torch.testing.assert_close(alone, found[1, 4], atol=1e-5, rtol=1e-5)


def test_without_an_edit_the_attack_is_the_concept_itself(backbone: Backbone) -> None:
    weights, c = stored(backbone), rows_of(backbone, ERASED, "all")
    assert distance(closed_form_attack(weights, weights, c, 1e-9), c) < 1e-6
    shrunk = closed_form_attack(weights, weights, c, 0.1)
    moment = torch.stack([w.T @ w for w in weights.values()]).sum(0)
    damped = moment + 0.1 * torch.eye(len(moment), dtype=moment.dtype)
    assert distance(shrunk, c @ (torch.linalg.inv(damped) @ moment).T) < 1e-9
    assert distance(shrunk, c) > 1e-4


def residual(edited: Weights, original: Weights, c: Tensor, wanted: Tensor) -> float:
    """Sum over matrices of |W_e c - W_0 wanted|^2."""
    return sum(
        float((c @ edited[name].T - wanted @ original[name].T).square().sum()) for name in original
    )


def test_attack_finds_what_an_edit_left(backbone: Backbone) -> None:
    params = ReceParams(tokens="all")
    original, c = stored(backbone), rows_of(backbone, ERASED, "all")
    patch = uce(backbone, CONCEPTS, KEEP, params)
    edited = {name: tensor.double() for name, tensor in patch.tensors.items()}
    way_back = closed_form_attack(edited, original, c, 1e-3)
    before, after = residual(edited, original, c, c), residual(edited, original, way_back, c)
    assert after < 0.1 * before
    # RECE closes that way: the same embedding no longer leads to the concept
    closed = rece(backbone, CONCEPTS, KEEP, replace(params, num_epochs=1, reg=1e-3))
    repeated = {name: tensor.double() for name, tensor in closed.tensors.items()}
    assert residual(repeated, original, way_back, c) > 5 * after


def expected(
    backbone: Backbone, texts: tuple[str, ...], keep: tuple[str, ...], params: ReceParams
) -> Weights:
    """Every step of RECE by regression."""
    original = stored(backbone)
    identity = torch.eye(next(iter(original.values())).shape[1], dtype=torch.float64)
    c, c_g = rows_of(backbone, texts, "last"), guides_of(backbone, texts, params.guide, "last")
    c_k = rows_of(backbone, keep, "last")
    edited = {
        name: solve(
            (params.erase_scale, c, c_g @ w_0.T),
            (params.keep_scale, c_k, c_k @ w_0.T),
            (params.ridge, identity, w_0.T),
        )
        for name, w_0 in original.items()
    }
    blank = rows_of(backbone, [params.repeat_guide], "all")
    preserved = rows_of(backbone, keep, "all")
    if params.repeat_keep == "guide":
        preserved = blank.repeat(len(texts), 1)
    for _ in range(params.num_epochs):
        c_all = rows_of(backbone, texts, "all")
        way_back = attack_by_regression(edited, original, c_all, params.reg)
        edited = {
            name: solve(
                (params.repeat_erase_scale, way_back, blank.repeat(len(texts), 1) @ w.T),
                (params.repeat_keep_scale, preserved, preserved @ w.T),
                (params.repeat_ridge, identity, w.T),
            )
            for name, w in edited.items()
        }
    return edited


@pytest.mark.parametrize("repeat_keep", ["guide", "keep"])
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_every_step_solves_its_regression(
    backbone: Backbone, num_epochs: int, repeat_keep: Any
) -> None:
    params = ReceParams(num_epochs=num_epochs, repeat_keep=repeat_keep)
    patch = rece(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, expected(backbone, ERASED, KEEP, params)) < 1e-6
    fewer = replace(params, num_epochs=num_epochs - 1)
    assert worst(patch, expected(backbone, ERASED, KEEP, fewer)) > 1e-2


def test_sdxl_form(tmp_path: Path) -> None:
    backbone, params = xl_backbone(tmp_path), ReceParams(num_epochs=1)
    patch = rece(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, expected(backbone, ERASED, KEEP, params)) < 1e-6


def test_patch_holds_keys_and_values_only(backbone: Backbone) -> None:
    before = unet_sha256(backbone.denoiser)
    patch = rece(backbone, CONCEPTS, KEEP, ReceParams())
    assert unet_sha256(backbone.denoiser) == before == patch.base_sha256
    assert patch.metadata == {"method": "rece"}
    assert patch.tensors.keys() == stored(backbone).keys()


def test_values_alone(backbone: Backbone) -> None:
    """Keys that are never edited still answer to c'."""
    patch = rece(backbone, CONCEPTS, KEEP, ReceParams(matrices="v"))
    assert len(patch.tensors) == 4
    assert all("to_v" in name for name in patch.tensors)
    both = rece(backbone, CONCEPTS, KEEP, ReceParams())
    assert all(not torch.equal(t, both.tensors[name]) for name, t in patch.tensors.items())
