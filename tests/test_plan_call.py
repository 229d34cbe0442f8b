"""A static plan's call is recorded once and replayed; on stand-ins for its module and for CUDA."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu
from tensorrt_examples import FakeTrt
from tiny import tiny_engine

from safediff.errors import Inconclusive, UsageError
from safediff.export.exported_unet import ExportedUNet
from safediff.export.plan_profile import Profile
from safediff.export.plan_session import PlanSession
from safediff.export.to_tensorrt import build

STATIC, RANGED = Profile.fixed(8), Profile(max_batch=4, min_side=4, opt_side=8, max_side=8)
HERE, OWN, RECORDING = 11, 12, 13
"""Streams: PyTorch's current one, one of the plan's own, and that of a recording."""


class Graph:
    """What was launched while it was recorded, to be launched again."""

    def __init__(self) -> None:
        self.launches: list[Any] = []

    def replay(self) -> None:
        for launch in self.launches:
            launch()


class Cuda:
    """``torch.cuda``, as far as calls are recorded."""

    def __init__(self, fake: FakeTrt) -> None:
        self.fake, self.current, self.fail = fake, HERE, ""
        self.waits: list[tuple[int, int]] = []

    def stream(self, number: int) -> Any:
        def wait(other: Any) -> None:
            self.waits.append((number, other.cuda_stream))

        return SimpleNamespace(cuda_stream=number, wait_stream=wait, synchronize=lambda: None)

    @contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.current, self.fake.recording = RECORDING, graph.launches
        try:
            yield
        finally:
            self.current, self.fake.recording = HERE, None
        if self.fail:
            raise RuntimeError(self.fail)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    module = FakeTrt()
    module.runs = tiny_engine() / "model.onnx"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def static(fake: FakeTrt, tmp_path: Path) -> Path:
    build(tiny_engine(), tmp_path / "unet.plan", "tensorrt", STATIC)
    return tmp_path / "unet.plan"


@pytest.fixture
def cuda(fake: FakeTrt, static: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """A GPU from here on; the plan was built before."""
    found = Cuda(fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: found.stream(found.current))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: found.stream(OWN))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", found.graph)
    with FakeGpu():
        yield found


def call(unet: ExportedUNet, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, 4, 8, 8, generator=generator)
    c = torch.randn(rows, 77, 16, generator=generator)
    (found,) = unet(z, 500 + rows, c, return_dict=False)
    assert isinstance(found, torch.Tensor)
    return found


def planned(plan: Path, **options: Any) -> ExportedUNet:
    return ExportedUNet(tiny_engine(), session=PlanSession(plan, **options))


def draws_as_onnx(unet: ExportedUNet, *rows: int) -> None:
    """Results of earlier calls stay what they were."""
    plain = ExportedUNet(tiny_engine(), num_threads=1)
    found = [call(unet, count) for count in rows]
    for count, result in zip(rows, found, strict=True):
        assert torch.allclose(result, call(plain, count), atol=1e-5)


def test_a_static_plan_is_recorded_after_a_warm_up_and_replayed(
    fake: FakeTrt, cuda: Cuda, static: Path
) -> None:
    unet = planned(static)
    assert unet.cuda_graph
    assert fake.streams == [HERE, RECORDING]
    assert len(fake.ran) == 1  # what is recorded is not run
    draws_as_onnx(unet, 2, 1, 5)
    assert len(fake.ran) == 1 + 1 + 1 + 3  # two rows at once
    assert fake.streams == [HERE, RECORDING]  # all others were replayed


def test_tensorrt_rtx_records_by_itself_on_a_stream_of_its_own(
    fake: FakeTrt, cuda: Cuda, static: Path
) -> None:
    fake.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")  # type: ignore[attr-defined]
    unet = planned(static)
    assert unet.cuda_graph
    assert [config.cuda_graph_strategy for config in fake.configured] == ["whole"]
    draws_as_onnx(unet, 2, 1)
    assert fake.streams == [OWN] * 3  # the first one when it was opened
    assert cuda.waits == [(OWN, HERE), (HERE, OWN)] * 3


def test_without_a_graph_calls_are_launched_one_by_one(
    fake: FakeTrt, cuda: Cuda, static: Path
) -> None:
    unet = planned(static, cuda_graph=False)
    assert (unet.cuda_graph, fake.ran) == (False, [])
    draws_as_onnx(unet, 2, 3)
    assert fake.streams == [HERE] * 3


def test_a_plan_of_a_range_of_sizes_has_none(fake: FakeTrt, cuda: Cuda, tmp_path: Path) -> None:
    plan = tmp_path / "ranged.plan"
    build(tiny_engine(), plan, "tensorrt", RANGED)
    assert not planned(plan).cuda_graph
    with pytest.raises(UsageError, match="takes a range of sizes, and a CUDA graph is of") as e:
        planned(plan, cuda_graph=True)
    assert "--static" in e.value.next_step


@pytest.mark.parametrize("fail", ["recording", "warm-up"])
def test_what_cannot_be_recorded(fake: FakeTrt, cuda: Cuda, static: Path, fail: str) -> None:
    """It is told where it was asked for; else the plan runs as it can."""
    if fail == "recording":
        cuda.fail, message = (
            "operation not permitted\nwhen stream is capturing",
            "can't be recorded: op",
        )
    else:
        fake.fail, message = "run", "could not be run for a CUDA graph"
    with pytest.raises(Inconclusive, match=rf"unet\.plan: its .*{message}") as caught:
        planned(static, cuda_graph=True)
    assert "\n" not in str(caught.value)
    assert caught.value.next_step == "serve it with --no-cuda-graph"
    unet = planned(static)
    assert not unet.cuda_graph
    fake.fail = ""
    draws_as_onnx(unet, 2)


@pytest.mark.parametrize("asked", [None, True])
def test_a_gpu_without_room_for_its_tensors(
    cuda: Cuda, static: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None
) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(PlanSession, "_bound", full)
    with pytest.raises(Inconclusive, match=r"unet\.plan: its call can't be prepared on the GPU: C"):
        PlanSession(static, cuda_graph=asked)


def test_sizes_are_checked_before_anything_is_copied(
    fake: FakeTrt, cuda: Cuda, static: Path
) -> None:
    unet = planned(static)
    with pytest.raises(ValueError, match="the plan takes"):
        unet(torch.zeros(2, 4, 16, 16), 1, torch.zeros(2, 77, 16))
    assert len(fake.ran) == 1
