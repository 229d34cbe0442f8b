"""Every preset of UCE, RECE and SPEED against the least squares that it states, in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_form_examples import (
    CONCEPTS,
    ERASED,
    KEEP,
    PHRASED,
    Term,
    frozen_backbone,
    guides_of,
    rows_of,
    solve,
    stored,
    worst,
)
from torch import Tensor

from safediff.erase.closed_form.params import (
    RECE_PRESETS,
    SPEED_PRESETS,
    UCE_PRESETS,
    ReceParams,
    SpeedParams,
    UceParams,
)
from safediff.erase.closed_form.rece import rece
from safediff.erase.closed_form.speed import null_pins, speed
from safediff.erase.closed_form.uce import uce
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, state_sha256

Weights = dict[str, Tensor]
EXACT = 1e-6
NULL_DRIFT = {"paper": 0.2, "nudity": 0.5, "safediff": 0.2}
"""How far the empty prompt's other tokens may move at most here, relative to their values."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


Guided = Mapping[str, str]
"""By phrasing what is drawn instead; of all others it is the preset's guide."""
INSTEAD: Guided = {"one axe here": "tree", "one bomb here": "red tree", "pistol": "tree"}
NOTHING: Guided = {}
GUIDED = tuple(
    replace(concept, toward=tuple(INSTEAD.get(text, "") for text in concept.phrasings))
    for concept in CONCEPTS
)
"""``CONCEPTS`` by a policy that says so."""


def erased(texts: str) -> tuple[str, ...]:
    return PHRASED if texts == "phrasings" else ERASED


def guides(
    backbone: Backbone, texts: Sequence[str], guide: str, tokens: str, instead: Guided
) -> Tensor:
    own = [guides_of(backbone, [text], instead.get(text, guide), tokens) for text in texts]
    return torch.cat(own)


def edited_matrices(backbone: Backbone, matrices: str) -> Weights:
    return {
        name: w for name, w in stored(backbone).items() if any(f"to_{m}." in name for m in matrices)
    }


def identity(width: int) -> Tensor:
    return torch.eye(width, dtype=torch.float64)


def uce_by_regression(
    backbone: Backbone, p: UceParams, weight: float = 1.0, instead: Guided = NOTHING
) -> Weights:
    """``weight`` scales the first term: at 1 it is the objective."""
    texts = erased(p.texts)
    c, c_g = rows_of(backbone, texts, p.tokens), guides(backbone, texts, p.guide, p.tokens, instead)
    c_k = rows_of(backbone, KEEP, p.tokens)
    return {
        name: solve(
            (weight * p.erase_scale, c, c_g @ w.T),
            (p.keep_scale, c_k, c_k @ w.T),
            (p.ridge, identity(w.shape[1]), w.T),
        )
        for name, w in edited_matrices(backbone, p.matrices).items()
    }


@pytest.mark.parametrize("preset", UCE_PRESETS)
def test_uce(backbone: Backbone, preset: str) -> None:
    params = UCE_PRESETS[preset]
    patch = uce(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, uce_by_regression(backbone, params)) < EXACT
    assert worst(patch, uce_by_regression(backbone, params, weight=1.1)) > 100 * EXACT


def way_back(edited: Weights, original: Weights, c: Tensor, reg: float) -> Tensor:
    """c' by a regression over the stacked matrices; rows of ``c`` are tokens."""
    width = c.shape[1]
    rows = np.concatenate([*(w.numpy() for w in edited.values()), reg**0.5 * np.eye(width)])
    targets = np.concatenate([*((w @ c.T).numpy() for w in original.values()), np.zeros(c.T.shape)])
    return torch.from_numpy(np.linalg.lstsq(rows, targets)[0].T)


def rece_by_regression(
    backbone: Backbone, p: ReceParams, num_epochs: int, instead: Guided = NOTHING
) -> Weights:
    texts, original = erased(p.texts), stored(backbone)
    edited = {**original, **uce_by_regression(backbone, p, instead=instead)}
    c = rows_of(backbone, texts, p.repeat_tokens)
    guide = guides(backbone, texts, p.repeat_guide, p.repeat_tokens, instead)
    kept = rows_of(backbone, KEEP, p.repeat_tokens)
    if p.repeat_keep == "guide":
        stand_ins = [instead.get(text, p.repeat_guide) for text in texts]
        kept = rows_of(backbone, stand_ins, p.repeat_tokens)
    for _ in range(num_epochs):
        back = way_back(edited, original, c, p.reg)

        def repeated(w: Tensor, back: Tensor = back) -> Tensor:
            terms: list[Term] = [
                (p.repeat_erase_scale, back, guide @ w.T),
                (p.repeat_keep_scale, kept, kept @ w.T),
                (p.repeat_ridge, identity(w.shape[1]), w.T),
            ]
            return solve(*terms)

        edited |= {name: repeated(edited[name]) for name in edited_matrices(backbone, p.matrices)}
    return {name: edited[name] for name in edited_matrices(backbone, p.matrices)}


@pytest.mark.parametrize("preset", RECE_PRESETS)
def test_rece(backbone: Backbone, preset: str) -> None:
    params = RECE_PRESETS[preset]
    patch = rece(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, rece_by_regression(backbone, params, params.num_epochs)) < EXACT
    fewer = rece_by_regression(backbone, params, params.num_epochs - 1)
    assert worst(patch, fewer) > 10 * EXACT


def influential(rows: Tensor, change: Tensor) -> Tensor:
    """The rows that a change moves at least as much as on average."""
    shift = torch.linalg.vector_norm(rows @ change.T, dim=1)
    return rows[shift >= shift.mean()]


def retained(
    rows: Tensor, w: Tensor, change: Tensor, p: SpeedParams, noise: torch.Generator
) -> Tensor:
    """The filtered tokens and their copies, perturbed where W passes the least on."""
    if p.influence_filter:
        rows = influential(rows, change)
    weakest = torch.linalg.svd(w, full_matrices=False).Vh[-p.num_directions :]
    copies = torch.cat([rows] * p.num_augment) if p.num_augment else rows[:0]
    size = (len(copies), p.num_directions)
    copies = copies + torch.randn(size, generator=noise, dtype=torch.float64) @ weakest
    if p.influence_filter and len(copies):
        copies = influential(copies, change)
    return torch.cat([rows, copies])


def orthogonal_to(columns: Tensor) -> Tensor:
    left, energy, _ = torch.linalg.svd(columns)
    return left[:, int((energy > 1e-9 * energy[0]).sum()) :]


def speed_by_regression(
    backbone: Backbone, p: SpeedParams, ridge: float, instead: Guided = NOTHING
) -> Weights:
    """1/n |D c - W (c_a - c)|^2 + r |D|^2 + 1/lambda |D K|^2 among D = D P; D K = 0 at lambda 0."""
    texts = erased(p.texts)
    c = rows_of(backbone, texts, p.tokens)
    c_a = guides(backbone, texts, p.anchor, p.tokens, instead)
    rows = rows_of(backbone, KEEP, p.tokens)
    if p.retain == "null":
        rows = rows_of(backbone, [""], "after_start")
    pins, noise, found = null_pins(backbone, p), torch.Generator().manual_seed(p.seed), {}
    for name, w in edited_matrices(backbone, p.matrices).items():
        share, gap = 1 / len(texts), (c_a - c) @ w.T
        unconstrained = solve((share, c, gap), (1.0, identity(w.shape[1]), torch.zeros_like(w.T)))
        kept = retained(rows, w, unconstrained, p, noise)
        left, energy, _ = np.linalg.svd((kept.T @ kept / len(kept)).numpy())
        basis, soft = torch.from_numpy(left[:, energy < p.threshold]), []
        if p.pin_slack:
            soft = [(1 / p.pin_slack, pins.T @ basis, torch.zeros(pins.shape[1], len(w)))]
        else:
            basis = basis @ orthogonal_to(basis.T @ pins)
        width = basis.shape[1]
        small = (ridge, identity(width), torch.zeros(width, len(w)))
        found[name] = w + solve((share, c @ basis, gap), small, *soft) @ basis.T
    return found


@pytest.mark.parametrize("preset", SPEED_PRESETS)
def test_speed(backbone: Backbone, preset: str) -> None:
    params = SPEED_PRESETS[preset]
    patch = speed(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, speed_by_regression(backbone, params, params.ridge)) < EXACT
    assert worst(patch, speed_by_regression(backbone, params, 2 * params.ridge)) > EXACT


def test_phrasings_get_what_is_drawn_instead(backbone: Backbone) -> None:
    """What a policy has drawn instead of a phrasing is the guide of that one, in every method."""
    of_uce, of_rece = UCE_PRESETS["safediff"], RECE_PRESETS["safediff"]
    of_rece = replace(of_rece, repeat_keep="guide", repeat_ridge=1.0)
    of_speed = SPEED_PRESETS["safediff"]

    def both(instead: Guided) -> list[Weights]:
        return [
            uce_by_regression(backbone, of_uce, instead=instead),
            rece_by_regression(backbone, of_rece, of_rece.num_epochs, instead),
            speed_by_regression(backbone, of_speed, of_speed.ridge, instead),
        ]

    patches = [
        uce(backbone, GUIDED, KEEP, of_uce),
        rece(backbone, GUIDED, KEEP, of_rece),
        speed(backbone, GUIDED, KEEP, of_speed),
    ]
    for patch, right, wrong in zip(patches, both(INSTEAD), both(NOTHING), strict=True):
        assert worst(patch, right) < EXACT
        assert worst(patch, wrong) > 100 * EXACT


@pytest.mark.parametrize("preset", ["paper", "style"])
def test_erase_texts_have_the_preset_s_guide(backbone: Backbone, preset: str) -> None:
    """What is drawn instead belongs to phrasings, which these presets do not hear."""
    params = UCE_PRESETS[preset]
    assert state_sha256(uce(backbone, GUIDED, KEEP, params).tensors) == state_sha256(
        uce(backbone, CONCEPTS, KEEP, params).tensors
    )


def moved(backbone: Backbone, patch: Patch, tokens: Tensor) -> Tensor:
    """Per token (num, d), the largest change of a key or value."""
    original = stored(backbone)
    changes = [
        (tokens @ (w.double() - original[name]).T).abs().amax(1)
        for name, w in patch.tensors.items()
    ]
    return torch.stack(changes).amax(0)


@pytest.mark.parametrize("preset", SPEED_PRESETS)
def test_what_speed_pins_of_the_empty_prompt(backbone: Backbone, preset: str) -> None:
    """At slack 0 the start token and the centres stand still; the other tokens are near them."""
    params = SPEED_PRESETS[preset]
    patch = speed(backbone, CONCEPTS, KEEP, params)
    pinned = moved(backbone, patch, null_pins(backbone, params).T)
    null = rows_of(backbone, [""], "all")
    each = moved(backbone, patch, null)
    scale = max(float((null @ w.T).abs().max()) for w in stored(backbone).values())
    if params.pin_slack:
        assert float(pinned.max()) > 1e-5
    else:
        assert float(pinned.max()) <= 1e-5
        assert float(each[0]) <= 1e-5  # the start token is a pin itself
        assert float(each[1:].max()) > 1e-5  # the others are pinned by their centres only
    assert float(each.max()) < NULL_DRIFT[preset] * scale


def test_as_many_centres_as_tokens_pin_the_whole_empty_prompt(backbone: Backbone) -> None:
    """What pinning every token takes: with 76 centres each of them is one."""
    params = replace(SPEED_PRESETS["safediff"], num_centres=76)
    patch = speed(backbone, CONCEPTS, KEEP, params)
    assert float(moved(backbone, patch, rows_of(backbone, [""], "all")).max()) <= 1e-5
