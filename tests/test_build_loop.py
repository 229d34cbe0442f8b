"""The training loop of the build: schedule, EMA, resuming."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from safediff.build.loop import Schedule, train

SCHEDULE = Schedule(num_steps=7, learning_rate=1e-2, num_warmup_steps=3, save_every=2, seed=5)


class Interrupted(Exception):
    pass


def new_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def run(
    module: nn.Module, folder: Path, schedule: Schedule = SCHEDULE, stop_at: int | None = None
) -> tuple[dict[str, Tensor], int]:
    """EMA state and the number of losses that were computed."""
    calls = 0

    def loss_of(generator: torch.Generator) -> Tensor:
        nonlocal calls
        if calls == stop_at:
            raise Interrupted
        calls += 1
        x = torch.randn(16, 3, generator=generator)
        out: Tensor = module(x)
        return (out - x.sum(1, keepdim=True)).square().mean()

    return train(module, loss_of, schedule, folder, "test"), calls


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    whole = new_module()
    expected, calls = run(whole, tmp_path / "whole")
    assert calls == 7
    with pytest.raises(Interrupted):
        run(new_module(), tmp_path / "part", stop_at=stop_at)
    resumed = new_module()
    found, calls = run(resumed, tmp_path / "part")
    assert calls == 7 - stop_at // 2 * 2
    assert_same(found, expected)
    assert_same(resumed.state_dict(), whole.state_dict())
    assert [file.name for file in (tmp_path / "part").iterdir()] == ["checkpoint.safetensors"]


def test_finished_training_returns_at_once(tmp_path: Path) -> None:
    expected, _ = run(new_module(), tmp_path)
    found, calls = run(new_module(), tmp_path)
    assert calls == 0
    assert_same(found, expected)


def test_ema_of_one_step(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in new_module().state_dict().items()}
    module = new_module()
    ema, _ = run(module, tmp_path, Schedule(num_steps=1, learning_rate=1e-2, num_warmup_steps=1))
    after = module.state_dict()
    torch.testing.assert_close(ema["0.weight"], 0.1 * before["0.weight"] + 0.9 * after["0.weight"])
    assert (after["0.weight"] - before["0.weight"]).abs().max() > 5e-3
    assert int(ema["1.num_batches_tracked"]) == 1


def test_seed_draws_the_batches(tmp_path: Path) -> None:
    one, _ = run(new_module(), tmp_path / "1")
    other, _ = run(new_module(), tmp_path / "2", Schedule(num_steps=7, learning_rate=1e-2, seed=6))
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(num_steps=1000, learning_rate=1.0, num_warmup_steps=100)
    assert schedule.factor(0) == pytest.approx(0.01)
    assert schedule.factor(49) == pytest.approx(0.5 * 0.5 * (1 + math.cos(0.049 * math.pi)))
    assert schedule.factor(500) == pytest.approx(0.5)
    assert schedule.factor(1000) == pytest.approx(0, abs=1e-12)
