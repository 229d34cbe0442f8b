"""Plans are opened and refitted as their sidecars say, or not at all; on a recording module."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serving_examples import BASE_SEED, release
from tensorrt_examples import PLAN, REFITTED, FakeTrt
from tiny import tiny_engine, tiny_unet

from safediff.errors import Inconclusive, PolicyViolated, SafediffError, UsageError
from safediff.export import survival
from safediff.export.open_plan import open_plan
from safediff.export.plan_profile import Profile
from safediff.export.plan_sidecar import read_sidecar, sidecar_path
from safediff.export.refit import refit
from safediff.export.to_tensorrt import build
from safediff.models.patch import unet_sha256
from safediff.workflow.plans import refit_plan

OTHER = tiny_unet(seed=3)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    module = FakeTrt()
    module.names = {f"unet.{key}" for key in tiny_unet().state_dict()}
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def plan(fake: FakeTrt, tmp_path: Path) -> Path:
    path = tmp_path / "unet.plan"
    build(tiny_engine(), path, "tensorrt", Profile.fixed(8), flags=["REFIT"])
    return path


def edit(plan: Path, **changes: Any) -> None:
    path = sidecar_path(plan)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_all_weights_are_exchanged(fake: FakeTrt, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "unet.plan"
    before = read_sidecar(plan)
    found = refit(plan, out, OTHER.state_dict())
    assert out.read_bytes() == REFITTED
    assert plan.read_bytes() == PLAN
    assert fake.given.keys() == fake.names
    for key, weight in OTHER.state_dict().items():
        assert np.array_equal(fake.given[f"unet.{key}"], weight.numpy())
    assert fake.saved_with == ["INCLUDE_REFIT"]
    assert read_sidecar(out) == found
    assert found["weights_sha256"] == unet_sha256(OTHER) != before["weights_sha256"]
    assert found["refitted_from"] == {k: before[k] for k in ("sha256", "weights_sha256")}
    assert found["gate"] is None


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("set", "unet.conv_in.bias was not taken"),
        ("missing", "1 weights are missing, first fused"),
        ("refit", "the refit failed"),
        ("save", "can't be written"),
    ],
)
def test_half_a_refit_leaves_nothing(
    fake: FakeTrt, plan: Path, tmp_path: Path, fail: str, message: str
) -> None:
    fake.fail = fail
    with pytest.raises(Inconclusive, match=message):
        refit(plan, tmp_path / "out" / "unet.plan", OTHER.state_dict())
    assert not (tmp_path / "out").exists()


def test_names_that_differ_are_refused(fake: FakeTrt, plan: Path, tmp_path: Path) -> None:
    fake.names.remove("unet.conv_in.bias")  # the module would keep its old value
    with pytest.raises(UsageError, match=r"1 weights .* first unet\.conv_in\.bias"):
        refit(plan, tmp_path / "x.plan", OTHER.state_dict())
    fake.names |= {"unet.conv_in.bias", "unet.more"}
    with pytest.raises(UsageError, match=r"first unet\.more"):
        refit(plan, tmp_path / "x.plan", OTHER.state_dict())
    assert fake.given == {}


def test_weights_take_the_type_of_the_plan(fake: FakeTrt, plan: Path, tmp_path: Path) -> None:
    edit(plan, precision="fp16")
    refit(plan, tmp_path / "x.plan", OTHER.state_dict())
    assert {array.dtype for array in fake.given.values()} == {np.dtype(np.float16)}


def test_a_version_that_refits_wrongly_builds_none(fake: FakeTrt, tmp_path: Path) -> None:
    fake.__version__ = "11.3.0"
    plan, profile = tmp_path / "unet.plan", Profile.fixed(8)
    with pytest.raises(UsageError, match=r"tensorrt 11\.3\.0 may compute wrongly"):
        build(tiny_engine(), plan, "tensorrt", profile, flags=["REFIT"])
    assert not plan.exists()
    build(tiny_engine(), plan, "tensorrt", profile)


Change = Callable[[FakeTrt, Path], None]


def _not_refittable(fake: FakeTrt, plan: Path) -> None:
    edit(plan, refittable=False)


def _wrong_version(fake: FakeTrt, plan: Path) -> None:
    fake.__version__ = "11.3.0"
    edit(plan, module_version="11.3.0")


def _other_version(fake: FakeTrt, plan: Path) -> None:
    fake.__version__ = "11.4.0"


def _changed(fake: FakeTrt, plan: Path) -> None:
    plan.write_bytes(PLAN[:-1] + b"N")


def _no_sidecar(fake: FakeTrt, plan: Path) -> None:
    sidecar_path(plan).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_not_refittable, "its weights can't be exchanged"),
        (_wrong_version, "may compute wrongly"),
        (_other_version, r"was built by tensorrt 10\.16\.1, here is 11\.4\.0"),
        (_changed, "its sidecar speaks of"),
        (_no_sidecar, "is not a plan with its sidecar"),
    ],
)
def test_what_must_not_be_opened_is_not(
    fake: FakeTrt, plan: Path, tmp_path: Path, change: Change, message: str
) -> None:
    change(fake, plan)
    with pytest.raises(UsageError, match=message):
        refit(plan, tmp_path / "x.plan", OTHER.state_dict())
    assert fake.opened == []


def test_a_plan_is_not_refitted_in_place(fake: FakeTrt, plan: Path) -> None:
    with pytest.raises(UsageError, match="is the plan that is read"):
        refit(plan, plan, OTHER.state_dict())


def test_the_reason_of_a_plan_that_does_not_open(fake: FakeTrt, plan: Path) -> None:
    fake.fail = "open"
    with pytest.raises(Inconclusive, match=r"tensorrt can't open it here: no driver$") as caught:
        open_plan(plan)
    assert "run it on the GPU it was built for" in caught.value.next_step


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fake: fake.dtypes.update(out_sample="HALF"), "has outputs"),
        (lambda fake: fake.shapes.update(sample=[(1, 4, 8, 8)] * 3), "sample takes"),
    ],
)
def test_an_opened_plan_is_what_its_sidecar_says(
    fake: FakeTrt, plan: Path, change: Callable[[FakeTrt], None], message: str
) -> None:
    open_plan(plan)
    change(fake)
    with pytest.raises(Inconclusive, match=message):
        open_plan(plan)


def test_a_release_is_put_into_a_plan(fake: FakeTrt, plan: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a plan of base None, these weights are of"):
        refit_plan(release(), plan, tmp_path / "out")
    edit(plan, base_sha256=unet_sha256(tiny_unet(seed=BASE_SEED)))
    line = refit_plan(release(), plan, tmp_path / "out")
    assert f"refitted with weights {unet_sha256(tiny_unet())[:12]}, 0 of " in line
    with pytest.raises(SafediffError):
        refit_plan(release(), plan, tmp_path)
    assert torch.equal(
        torch.from_numpy(fake.given["unet.conv_in.bias"]), tiny_unet().state_dict()["conv_in.bias"]
    )


def test_an_edit_that_drowns_is_not_put_into_a_plan(
    fake: FakeTrt, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survival, "MIN_COSINE", 1.1)
    edit(plan, base_sha256=unet_sha256(tiny_unet(seed=BASE_SEED)))
    with pytest.raises(PolicyViolated, match="fp32; edit DROWNS IN ROUNDING"):
        refit_plan(release(), plan, tmp_path / "out")
    assert (fake.given, (tmp_path / "out").exists()) == ({}, False)
