"""UCE against a stacked weighted regression in float64, and which tensors it touches."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from torch import Tensor, nn

from safediff.erase.closed_form.kv import Pairs, erased_texts, kv_weights, token_mask
from safediff.erase.closed_form.params import UceParams
from safediff.erase.closed_form.uce import edit_factor, uce
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.models.patch import apply_patch, unet_sha256

MODES = ["last", "content", "after_start", "all"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("a", "b", "ridge"), [(1.0, 1.0, 0.5), (7.0, 0.3, 0.01), (1.0, 0.0, 2.0)])
def test_random_matrices_solve_the_regression(a: float, b: float, ridge: float) -> None:
    w_0, c, c_g, c_k = random(9, 24), random(5, 24), random(5, 24, seed=1), random(40, 24, seed=2)
    found = w_0 @ edit_factor(Pairs(c, c_g), c_k.T @ c_k, a, b, ridge)
    base: tuple[float, Tensor, Tensor] = (ridge, torch.eye(24, dtype=torch.float64), w_0.T)
    kept = (b, c_k, c_k @ w_0.T)
    assert distance(found, solve((a, c, c_g @ w_0.T), kept, base)) < 1e-9
    assert distance(found, solve((a, c, c @ w_0.T), kept, base)) > 1e-2  # the guide matters
    assert distance(found, solve((2 * a, c, c_g @ w_0.T), kept, base)) > 1e-4


def expected(
    backbone: Backbone, texts: tuple[str, ...], keep: tuple[str, ...], params: UceParams
) -> dict[str, Tensor]:
    c, c_k = rows_of(backbone, texts, params.tokens), rows_of(backbone, keep, params.tokens)
    c_g = guides_of(backbone, texts, params.guide, params.tokens)
    return {
        name: solve(
            (params.erase_scale, c, c_g @ w_0.T),
            (params.keep_scale, c_k, c_k @ w_0.T),
            (params.ridge, torch.eye(w_0.shape[1], dtype=torch.float64), w_0.T),
        )
        for name, w_0 in stored(backbone).items()
    }


@pytest.mark.parametrize("guide", ["", "tree"])
@pytest.mark.parametrize("tokens", MODES)
def test_pipeline_solves_the_regression(backbone: Backbone, tokens: Any, guide: str) -> None:
    params = UceParams(tokens=tokens, guide=guide)
    patch = uce(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, expected(backbone, ERASED, KEEP, params)) < 1e-6
    others = [mode for mode in MODES if mode != tokens]
    for mode in others:
        wrong = expected(backbone, ERASED, KEEP, replace(params, tokens=mode))
        assert worst(patch, wrong) > 1e-3


def test_sdxl_form(tmp_path: Path) -> None:
    backbone = xl_backbone(tmp_path)
    patch = uce(backbone, CONCEPTS, KEEP, UceParams())
    assert next(iter(patch.tensors.values())).shape[1] == 32
    assert worst(patch, expected(backbone, ERASED, KEEP, UceParams())) < 1e-6


def test_patch_holds_keys_and_values_only(backbone: Backbone) -> None:
    before = unet_sha256(backbone.denoiser)
    patch = uce(backbone, CONCEPTS, KEEP, UceParams())
    assert unet_sha256(backbone.denoiser) == before == patch.base_sha256
    assert patch.metadata == {"method": "uce"}
    assert patch.tensors.keys() == stored(backbone).keys()
    assert len(patch.tensors) == 8
    original = backbone.denoiser.state_dict()
    assert all(not torch.equal(tensor, original[name]) for name, tensor in patch.tensors.items())
    remove = apply_patch(backbone.denoiser, patch)
    assert unet_sha256(backbone.denoiser) != before
    remove()
    assert unet_sha256(backbone.denoiser) == before


def test_half_precision_weights_stay_half(tmp_path: Path) -> None:
    backbone = frozen_backbone(tmp_path)
    backbone.denoiser.half()
    patch = uce(backbone, CONCEPTS, KEEP, UceParams())
    assert {tensor.dtype for tensor in patch.tensors.values()} == {torch.float16}
    assert worst(patch, expected(backbone, ERASED, KEEP, UceParams())) < 1e-3


def moved(backbone: Backbone, params: UceParams, keep: tuple[str, ...] = KEEP) -> list[float]:
    """How far erased tokens are from the guide's keys, and kept ones from their own; relative."""
    patch = uce(backbone, CONCEPTS, keep, params)
    c, c_k = rows_of(backbone, ERASED, "last"), rows_of(backbone, KEEP, "last")
    c_g = guides_of(backbone, ERASED, "", "last")
    name, w_0 = next(iter(stored(backbone).items()))
    w = patch.tensors[name].double()
    return [distance(c @ w.T, c_g @ w_0.T), distance(c_k @ w.T, c_k @ w_0.T)]


def test_erased_tokens_get_the_guide_and_kept_ones_stay(backbone: Backbone) -> None:
    mild, strong = moved(backbone, UceParams()), moved(backbone, UceParams(erase_scale=1e4))
    assert strong[0] < 1e-2 < mild[0]
    free, held = moved(backbone, UceParams(), keep=()), moved(backbone, UceParams(keep_scale=1e4))
    assert held[1] < 1e-2 < free[1]


@pytest.mark.parametrize("matrices", ["k", "v"])
def test_only_the_named_matrices_change(backbone: Backbone, matrices: Any) -> None:
    patch = uce(backbone, CONCEPTS, KEEP, UceParams(matrices=matrices))
    assert len(patch.tensors) == 4
    assert all(name.endswith(f"attn2.to_{matrices}.weight") for name in patch.tensors)


def test_phrasings_are_erased_in_place_of_the_erase_texts(backbone: Backbone) -> None:
    assert erased_texts(CONCEPTS, "erase") == ERASED
    assert erased_texts(CONCEPTS[:1] * 2, "phrasings") == ("axe", "one axe here")


def test_which_tokens_a_mode_reads(backbone: Backbone) -> None:
    marked = {
        mode: token_mask(backbone, ["axe", "", "a red apple"], mode).nonzero().tolist()
        for mode in ("last", "content")
    }
    assert marked["last"] == [[0, 3], [1, 0], [2, 9]]
    content = [[0, i] for i in (1, 2, 3)] + [[2, i] for i in range(1, 10)]
    assert marked["content"] == content
    assert token_mask(backbone, ["axe"], "all").sum() == 77
    assert not token_mask(backbone, ["axe"], "after_start")[0, 0]
    assert token_mask(backbone, ["axe"], "after_start").sum() == 76


def test_long_keep_lists_are_read_in_parts(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = uce(backbone, CONCEPTS, KEEP, UceParams())
    monkeypatch.setattr("safediff.erase.closed_form.kv._CHUNK", 2)
    parts = uce(backbone, CONCEPTS, KEEP, UceParams())
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], tensor, atol=1e-6, rtol=0)


def test_unet_without_cross_attention_is_refused() -> None:
    unet = nn.ModuleDict({"attn1": nn.Linear(2, 2)})
    unet.config = SimpleNamespace()
    with pytest.raises(UsageError, match="no keys and values of cross-attention"):
        kv_weights(unet)
