"""SPEED against its constrained problem, solved by other means; pins, retained tokens, k-means."""

from dataclasses import replace
from pathlib import Path
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
from policy_examples import plan_of
from torch import Tensor

from safediff.erase.closed_form.kmeans import kmeans_centres
from safediff.erase.closed_form.params import SPEED_PRESETS, SpeedParams
from safediff.erase.closed_form.retained import free_directions, retained_moment
from safediff.erase.closed_form.speed import null_pins, speed, speed_change, unconstrained_change
from safediff.erase.methods import settings_of
from safediff.errors import PolicyError, UsageError
from safediff.models.backbone import Backbone
from safediff.models.patch import Patch, state_sha256, unet_sha256
from safediff.workflow.run_folder import open_run
from safediff.workflow.training import train
from safediff.workflow.ui import SilentUi

D = 16


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def orthonormal(width: int, seed: int) -> Tensor:
    basis: Tensor = torch.linalg.qr(random(D, D, seed=seed)).Q[:, :width]
    return basis


def null_of(columns: Tensor) -> Tensor:
    """An orthonormal basis of what is orthogonal to all columns."""
    left, energy, _ = torch.linalg.svd(columns)
    rank = int((energy > 1e-9 * energy[0]).sum())
    basis: Tensor = left[:, rank:]
    return basis


def best_change(
    weight: Tensor, c: Tensor, c_a: Tensor, num_texts: int, free: Tensor, pins: Tensor, params: Any
) -> Tensor:
    """D by regression over its free coordinates; hard pins are coordinates that it lacks."""
    basis, soft = free, []
    if params.pin_slack:
        soft = [(1 / params.pin_slack, pins.T @ free, torch.zeros(pins.shape[1], len(weight)))]
    else:
        basis = free @ null_of(free.T @ pins)
    erased = (1 / num_texts, c @ basis, (c_a - c) @ weight.T)
    width = basis.shape[1]
    small = (params.ridge, torch.eye(width, dtype=c.dtype), torch.zeros(width, len(weight)))
    return solve(erased, small, *soft) @ basis.T


@pytest.mark.parametrize("slack", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("r", [1.0, 0.05])
def test_change_solves_the_constrained_problem(r: float, slack: float) -> None:
    weight, c, c_a = random(7, D), random(30, D, seed=1), random(30, D, seed=2)
    free, pins = orthonormal(11, seed=3), random(D, 4, seed=4)
    own, anchor = c.T @ c / 5, c_a.T @ c / 5
    found = speed_change(weight, own, anchor, free, pins, r, slack)
    params = SpeedParams(ridge=r, pin_slack=slack)
    assert distance(found, best_change(weight, c, c_a, 5, free, pins, params)) < 1e-9
    wrong = replace(params, ridge=1.1 * r)
    assert distance(found, best_change(weight, c, c_a, 5, free, pins, wrong)) > 1e-4
    assert distance(found, best_change(weight, c, c_a, 6, free, pins, params)) > 1e-4
    assert (found - found @ free @ free.T).abs().max() < 1e-10
    pinned = float((found @ pins).abs().max())
    assert pinned < 1e-9 if slack == 0 else pinned > 1e-4


@pytest.mark.parametrize("slack", [0.0, 0.5])
def test_change_is_the_published_formula(slack: float) -> None:
    weight, c, c_a = random(7, D), random(30, D, seed=1), random(30, D, seed=2)
    free, k = orthonormal(11, seed=3), random(D, 4, seed=4)
    t, a, p, eye = c.T @ c, c_a.T @ c, free @ free.T, torch.eye(D, dtype=torch.float64)
    m = torch.linalg.inv(t @ p + 0.7 * eye)
    middle = torch.linalg.inv(k.T @ p @ m @ k + slack * torch.eye(4, dtype=torch.float64))
    published = weight @ (a - t) @ p @ (eye - m @ k @ middle @ k.T @ p) @ m
    assert distance(speed_change(weight, t, a, free, k, 0.7, slack), published) < 1e-9


def test_pins_that_are_retained_anyway_change_nothing() -> None:
    weight, c, c_a = random(7, D), random(30, D, seed=1), random(30, D, seed=2)
    free = orthonormal(11, seed=3)
    held = null_of(free) @ random(5, 2, seed=5)
    pin = random(D, 1, seed=6)
    own, anchor = c.T @ c, c_a.T @ c
    alone = speed_change(weight, own, anchor, free, pin, 1.0, 0.0)
    both = speed_change(weight, own, anchor, free, torch.cat([pin, held], dim=1), 1.0, 0.0)
    assert distance(both, alone) < 1e-9
    assert (both @ pin).abs().max() < 1e-10


def test_unconstrained_change_solves_its_regression() -> None:
    weight, c, c_a = random(7, D), random(9, D, seed=1), random(9, D, seed=2)
    found = unconstrained_change(weight, c.T @ c, c_a.T @ c)
    eye = torch.eye(D, dtype=torch.float64)
    small = (1.0, eye, torch.zeros(D, 7, dtype=torch.float64))
    assert distance(found, solve((1.0, c, (c_a - c) @ weight.T), small)) < 1e-9


def test_free_directions_have_little_energy() -> None:
    turn, energy = orthonormal(D, seed=1), torch.linspace(0.0, 0.32, D).double()
    free = free_directions(turn @ torch.diag(energy) @ turn.T, 0.1)
    expected = turn[:, energy < 0.1]
    assert free.shape == expected.shape == (D, 5)
    assert distance(free @ free.T, expected @ expected.T) < 1e-9


def moment_of(rows: Tensor, change: Tensor, params: SpeedParams, seed: int = 0) -> Tensor:
    weight = torch.diag(torch.tensor([5.0, 4.0, 3.0, 0.0], dtype=torch.float64))
    return retained_moment(rows, weight, change, params, torch.Generator().manual_seed(seed))


def test_filter_retains_what_the_edit_moves() -> None:
    rows = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0]], dtype=torch.float64)
    change = torch.tensor([[0.0, 1, 1, 0]], dtype=torch.float64)  # shifts 0, 2 and 3
    plain = SpeedParams(num_augment=0)
    kept = moment_of(rows, change, plain)
    torch.testing.assert_close(kept, torch.diag(torch.tensor([0.0, 4, 9, 0])).double() / 2)
    every = moment_of(rows, change, replace(plain, influence_filter=False))
    torch.testing.assert_close(every, torch.diag(torch.tensor([1.0, 4, 9, 0])).double() / 3)
    one = moment_of(rows[:1], change, plain)  # a single token always stays
    torch.testing.assert_close(one, torch.diag(torch.tensor([1.0, 0, 0, 0])).double())


def test_copies_differ_where_the_matrix_looks_least() -> None:
    rows = torch.tensor([[1.0, 2, 3, 0]], dtype=torch.float64)
    params = SpeedParams(influence_filter=False, num_augment=4000)
    moment = moment_of(rows, torch.ones(1, 4, dtype=torch.float64), params)
    expected = rows.T @ rows
    torch.testing.assert_close(moment[:3, :3], expected[:3, :3])
    assert float(moment[3, 3]) == pytest.approx(1.0, rel=0.1)  # unit noise along the last axis
    wide = moment_of(rows, torch.ones(1, 4).double(), replace(params, num_directions=2))
    assert float(wide[2, 2]) == pytest.approx(9 + 1, rel=0.1)
    torch.testing.assert_close(wide[:2, :2], expected[:2, :2])


def test_copies_are_filtered_among_themselves() -> None:
    rows = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    change = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)  # shift: the size of the noise
    params = SpeedParams(num_augment=4000)
    moment = moment_of(rows, change, params)
    # E[x^2 given |x| > E|x|] of a normal x is 1 + m phi(m) / (1 - Phi(m)) with m = sqrt(2 / pi)
    assert float(moment[3, 3]) == pytest.approx(2.09, rel=0.05)


def test_kmeans_finds_planted_groups() -> None:
    planted = 10 * random(3, 5, seed=7)
    points = torch.cat([centre + 0.1 * random(20, 5, seed=i) for i, centre in enumerate(planted)])
    for seed in range(5):
        centres = kmeans_centres(points, 3, seed)
        assert torch.cdist(planted, centres).amin(1).max() < 0.2


def test_kmeans_is_a_fixed_point_and_repeats() -> None:
    points = random(76, 5)
    centres = kmeans_centres(points, 3, seed=1)
    assert torch.equal(centres, kmeans_centres(points, 3, seed=1))
    nearest = torch.cdist(points, centres).argmin(1)
    means = torch.stack([points[nearest == index].mean(0) for index in range(3)])
    torch.testing.assert_close(means, centres)
    assert any(not torch.equal(centres, kmeans_centres(points, 3, seed=s)) for s in (2, 3, 4))


def test_pins_are_the_start_token_and_centres(backbone: Backbone) -> None:
    null = rows_of(backbone, [""], "all")
    pins = null_pins(backbone, SpeedParams())
    assert pins.shape == (D, 4)
    assert torch.equal(pins[:, 0], null[0])
    assert torch.equal(pins[:, 1:].T, kmeans_centres(null[1:], 3, seed=0))


def expected(backbone: Backbone, keep: tuple[str, ...], params: SpeedParams) -> dict[str, Tensor]:
    """Every value matrix by regression; nothing is filtered or augmented."""
    c = rows_of(backbone, ERASED, params.tokens)
    c_a = guides_of(backbone, ERASED, params.anchor, params.tokens)
    retained = rows_of(backbone, keep, params.tokens)
    if params.retain == "null":
        retained = rows_of(backbone, [""], "after_start")
    pins = null_pins(backbone, params)
    energy, vectors = torch.linalg.eigh(retained.T @ retained / len(retained))
    free = vectors[:, energy < params.threshold]
    weights = {name: w for name, w in stored(backbone).items() if "to_v" in name}
    return {
        name: w + best_change(w, c, c_a, len(ERASED), free, pins, params)
        for name, w in weights.items()
    }


def test_the_seed_is_the_policys(tmp_path: Path) -> None:
    def seed_of(text: str) -> int:
        params = settings_of(plan_of(tmp_path, ("keep:", f"erase: {{{text}}}\nkeep:")).erase)
        assert isinstance(params, SpeedParams)
        return params.seed

    assert seed_of("method: speed") == 0
    assert seed_of("method: speed, seed: 7") == 7
    assert seed_of("method: speed, seed: 7, options: {seed: 0}") == 0
    with pytest.raises(PolicyError, match="seed: must be at least 0 and below"):
        seed_of("method: speed, options: {seed: -1}")


def test_a_run_draws_with_the_policys_seed(backbone: Backbone, tmp_path: Path) -> None:
    def solved(seed: int) -> str:
        plan = plan_of(tmp_path, ("keep:", f"erase: {{method: speed, seed: {seed}}}\nkeep:"))
        run = open_run(plan, tmp_path / str(seed), resume=False)
        return state_sha256(train(plan, backbone, run, SilentUi()).teacher.tensors)

    assert solved(0) != solved(1)


PLAIN = SpeedParams(num_augment=0, influence_filter=False)


@pytest.mark.parametrize(
    "params",
    [
        PLAIN,
        replace(PLAIN, tokens="content", ridge=0.2, anchor="tree"),
        replace(PLAIN, tokens="all", pin_slack=0.3, threshold=0.5),
        replace(SPEED_PRESETS["nudity"], num_augment=0, influence_filter=False),
    ],
    ids=["objects", "content", "all", "nudity"],
)
def test_pipeline_solves_the_constrained_problem(backbone: Backbone, params: SpeedParams) -> None:
    patch = speed(backbone, CONCEPTS, KEEP, params)
    assert worst(patch, expected(backbone, KEEP, params)) < 1e-6
    wrong = expected(backbone, KEEP, replace(params, ridge=2 * params.ridge))
    assert worst(patch, wrong) > 1e-5


def null_shift(backbone: Backbone, patch: Patch, pins: Tensor) -> float:
    """The largest move of a pinned token's key or value."""
    original = stored(backbone)
    return max(
        float(((tensor.double() - original[name]) @ pins).abs().max())
        for name, tensor in patch.tensors.items()
    )


def test_null_prompt_is_pinned(backbone: Backbone) -> None:
    params = SpeedParams(matrices="kv")
    pins = null_pins(backbone, params)
    assert null_shift(backbone, speed(backbone, CONCEPTS, KEEP, params), pins) <= 1e-5
    loose = speed(backbone, CONCEPTS, KEEP, replace(params, pin_slack=1e6))
    assert null_shift(backbone, loose, pins) > 1e-3


def test_retained_tokens_stay(backbone: Backbone) -> None:
    """In the retained directions nothing changes; erased tokens do."""
    params = replace(PLAIN, threshold=1e-9, ridge=1e-3)
    patch = speed(backbone, CONCEPTS, KEEP, params)
    assert null_shift(backbone, patch, rows_of(backbone, KEEP, "last").T) <= 1e-5
    assert null_shift(backbone, patch, rows_of(backbone, ERASED, "last").T) > 1e-3
    other = speed(backbone, CONCEPTS, KEEP[:1], params)
    assert null_shift(backbone, other, rows_of(backbone, KEEP, "last").T) > 1e-3


def test_without_kept_texts_the_empty_prompt_is_retained(backbone: Backbone) -> None:
    found = speed(backbone, CONCEPTS, (), SpeedParams())
    same = speed(backbone, CONCEPTS, KEEP, SpeedParams(retain="null"))
    assert state_sha256(found.tensors) == state_sha256(same.tensors)


def test_patch_holds_values_only(backbone: Backbone) -> None:
    before = unet_sha256(backbone.denoiser)
    patch = speed(backbone, CONCEPTS, KEEP, SpeedParams())
    assert unet_sha256(backbone.denoiser) == before == patch.base_sha256
    assert patch.metadata == {"method": "speed"}
    assert patch.tensors.keys() == {name for name in stored(backbone) if "to_v" in name}
    again = speed(backbone, CONCEPTS, KEEP, SpeedParams())
    assert state_sha256(again.tensors) == state_sha256(patch.tensors)


def test_sdxl_form(tmp_path: Path) -> None:
    backbone = xl_backbone(tmp_path)
    patch = speed(backbone, CONCEPTS, KEEP, SpeedParams())
    pins = null_pins(backbone, SpeedParams())
    assert pins.shape == (2 * D, 4)
    assert null_shift(backbone, patch, pins) <= 1e-5
    assert null_shift(backbone, patch, rows_of(backbone, ERASED, "last").T) > 1e-3


def test_no_free_direction_is_an_error(backbone: Backbone) -> None:
    with pytest.raises(
        UsageError, match=r"erase\.options\.threshold: kept texts leave no"
    ) as error:
        speed(backbone, CONCEPTS, (), SpeedParams(threshold=1e-12))
    assert error.value.next_step == "raise it, or keep fewer texts"
