"""A plan computes what its graph does, whatever the number of rows; on a recording module."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from tensorrt_examples import FakeTrt
from tiny import tiny_engine

from safediff.errors import Inconclusive, UsageError
from safediff.export import plan_session
from safediff.export.exported_unet import ExportedUNet
from safediff.export.plan_profile import Profile
from safediff.export.plan_session import PlanSession
from safediff.export.plan_sidecar import read_sidecar
from safediff.export.to_tensorrt import build

PROFILE = Profile(min_batch=2, max_batch=4, min_side=4, opt_side=8, max_side=8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    module = FakeTrt()
    module.runs = tiny_engine() / "model.onnx"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(plan_session, "device", lambda: torch.device("cpu"))
    return module


@pytest.fixture
def plan(fake: FakeTrt, tmp_path: Path) -> Path:
    path = tmp_path / "unet.plan"
    build(tiny_engine(), path, "tensorrt", PROFILE)
    return path


def call(unet: ExportedUNet, rows: int, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, 4, side, side, generator=generator)
    c = torch.randn(rows, 77, 16, generator=generator)
    (found,) = unet(z, 501, c, return_dict=False)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize(
    ("rows", "parts"), [(1, [2]), (2, [2]), (3, [3]), (4, [4]), (5, [4, 2]), (11, [4, 4, 3])]
)
def test_any_number_of_rows(fake: FakeTrt, plan: Path, rows: int, parts: list[int]) -> None:
    planned = ExportedUNet(tiny_engine(), session=PlanSession(plan))
    expected = call(ExportedUNet(tiny_engine(), num_threads=1), rows)
    found = call(planned, rows)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    assert [shapes["sample"][0] for shapes in fake.ran] == parts
    assert [shapes["encoder_hidden_states"][0] for shapes in fake.ran] == parts


def test_sizes_outside_the_profile_are_refused(fake: FakeTrt, plan: Path) -> None:
    planned = ExportedUNet(tiny_engine(), session=PlanSession(plan))
    with pytest.raises(ValueError, match=r"sample has shape \(2, 4, 16, 16\), the plan takes"):
        call(planned, 2, side=16)
    assert fake.ran == []


@pytest.mark.parametrize(("fail", "message"), [("run", "did not run"), ("shape", "refuses sample")])
def test_a_call_that_fails_is_no_picture(
    fake: FakeTrt, plan: Path, fail: str, message: str
) -> None:
    planned = ExportedUNet(tiny_engine(), session=PlanSession(plan))
    fake.fail = fail
    with pytest.raises(Inconclusive, match=message):
        call(planned, 2)


def test_a_module_that_can_not_start(fake: FakeTrt, plan: Path) -> None:
    fake.fail = "runtime"
    with pytest.raises(Inconclusive, match="can't open it here: pybind11::init"):
        PlanSession(plan)


def test_a_plan_that_does_not_fit(fake: FakeTrt, plan: Path) -> None:
    fake.fail = "memory"
    with pytest.raises(Inconclusive, match="don't fit into the memory of the GPU"):
        PlanSession(plan)


def test_what_is_opened_is_what_was_checked(fake: FakeTrt, plan: Path) -> None:
    checked = read_sidecar(plan)["sha256"]
    PlanSession(plan, checked)
    assert [hashlib.sha256(data).hexdigest() for data in fake.opened] == [checked]
    fake.plan = b"another plan" * 200_000  # with a sidecar that fits
    build(tiny_engine(), plan, "tensorrt", PROFILE)
    PlanSession(plan)
    fake.opened.clear()
    with pytest.raises(UsageError, match=f"was checked as {checked[:12]}"):
        PlanSession(plan, checked)
    assert fake.opened == []


def test_a_plan_is_read_once(fake: FakeTrt, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever exchanges the file after it was hashed is too late."""
    read, known = Path.read_bytes, plan.read_bytes()
    reads: list[bytes] = []

    def exchanged(path: Path) -> bytes:
        reads.append(read(path))
        plan.write_bytes(b"native code")
        return reads[-1]

    monkeypatch.setattr(Path, "read_bytes", exchanged)
    PlanSession(plan)
    assert fake.opened == reads == [known]
