"""Many branches go through the denoiser in several calls, and come out as from one."""

from typing import Any

import pytest
import torch
from guard_examples import DRAWS, TEXTS, TOLERANCE, distance, trajectory
from tiny import tiny_backbone
from torch import Tensor

from safediff.guard import base as guard_base
from safediff.guard.base import ClassifierFree, Guidance, Unguided, start_guidance
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone, Condition


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("num_branches", "num_rows", "calls"),
    [
        (2, 32, [64]),
        (3, 21, [63]),
        (4, 16, [64]),
        (1, 200, [200]),  # without a guard the batch size decides
        (2, 100, [200]),
        (3, 32, [96]),
        (4, 32, [64, 64]),
        (21, 16, [80, 80, 80, 96]),
        (5, 100, [100, 200, 200]),  # no fewer than without a guard
        (21, 3, [63]),
        (21, 5, [50, 55]),
        (3, 0, [0]),  # of more processes than rows
    ],
)
def test_a_call_has_whole_branches_and_no_more_rows_than_fit(
    num_branches: int, num_rows: int, calls: list[int]
) -> None:
    branches = [Condition(torch.full((num_rows, 2, 3), float(k))) for k in range(num_branches)]
    guidance = (Unguided if num_branches == 1 else ClassifierFree)(branches, 5.0)
    assert [len(part) for part in guidance.parts] == calls
    assert torch.equal(Condition.cat(guidance.parts).hidden, guidance.condition.hidden)
    if len(calls) == 1:
        assert guidance.parts == [guidance.condition]


class Counted:
    """A denoiser that notes how many rows it gets."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.rows = denoiser, list[int]()

    def __call__(self, z: Tensor, *args: Any, **given: Any) -> Any:
        self.rows.append(len(z))
        return self.denoiser(z, *args, **given)


@torch.no_grad()
def test_parts_answer_as_the_whole(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = make_guard("sega", (*TEXTS, "axe"))
    z, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)

    def asked() -> tuple[Tensor, list[int]]:
        counted = Counted(backbone.denoiser)
        found = started().stacked(backbone.with_denoiser(counted), z, t)
        return found, counted.rows

    def started() -> Guidance:
        c = backbone.encode([draw.prompt for draw in DRAWS])
        return start_guidance(guard, backbone, backbone.null().repeat(3), c, 5.0)

    whole, rows = asked()
    assert rows == [15]
    monkeypatch.setattr(guard_base, "MOST_ROWS", 8)
    parts, rows = asked()
    assert rows == [3, 6, 6]  # as many passes, in more calls
    assert distance(parts, whole) <= 1e-5


@pytest.mark.parametrize("name", ["sld-strong", "sega"])
def test_a_trajectory_in_parts_is_the_same(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    guard = make_guard(name, TEXTS)
    whole = trajectory(backbone, guard)
    monkeypatch.setattr(guard_base, "MOST_ROWS", 6)
    assert distance(trajectory(backbone, guard), whole) <= TOLERANCE
