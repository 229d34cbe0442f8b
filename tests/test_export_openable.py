"""Providers that ONNX Runtime lists and can't open are told apart from those that it has."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
import torch

from safediff.cli.plan import _engine_pictures
from safediff.errors import Inconclusive
from safediff.export import openable, providers
from safediff.export.providers import CPU_PROVIDER, CUDA_PROVIDER, drawing_provider, refusal
from safediff.workflow import engine_report, proofs
from safediff.workflow.proofs import prove_base


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    openable._why_not.cache_clear()
    yield
    openable._why_not.cache_clear()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime says that it has CUDA; as with a missing library, it takes the CPU."""
    names = [CUDA_PROVIDER, CPU_PROVIDER]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_the_cpus_opens_and_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, count = ort.InferenceSession, []

    def counted(*args: Any, **kwargs: Any) -> ort.InferenceSession:
        count.append(args)
        return opened(*args, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", counted)
    assert refusal(CPU_PROVIDER) is None
    assert refusal(CPU_PROVIDER) is None
    assert len(count) == 1


def test_one_that_is_not_there() -> None:
    assert refusal("NoSuchProvider") == "this build of ONNX Runtime does not have it"


@pytest.mark.usefixtures("listed")
def test_one_that_is_silently_replaced() -> None:
    reason = refusal(CUDA_PROVIDER)
    assert reason is not None
    assert reason.startswith(
        "a library that it needs can't be loaded; PyTorch was built with CUDA "
    )


@pytest.mark.usefixtures("listed")
def test_one_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        assert kwargs["providers"] == [(CUDA_PROVIDER, {"device_id": "0"})]
        raise RuntimeError("CUDA failure 35\nand more")

    monkeypatch.setattr(ort, "InferenceSession", fails)
    assert refusal(CUDA_PROVIDER) == "CUDA failure 35"


@pytest.mark.usefixtures("gpu")
def test_libraries_are_loaded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(ort, "preload_dlls", lambda: loaded.append("libraries"), raising=False)
    openable.preload_cuda.cache_clear()
    assert refusal(CPU_PROVIDER) is None
    openable.preload_cuda.cache_clear()
    assert loaded == ["libraries"]


@pytest.mark.usefixtures("listed", "gpu")
def test_nothing_is_drawn_on_the_cpu_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Inconclusive, match="lists it, but it can't be opened: a library") as caught:
        drawing_provider()
    assert "onnxruntime-gpu" in caught.value.next_step
    assert _engine_pictures().startswith("nowhere: CUDAExecutionProvider")
    asked = ("require_steps", "require_scales", "require_levels")
    for name in ("_say_cut", "require_exportable", *asked):
        monkeypatch.setattr(proofs, name, lambda *_: None)
    export, checked = SimpleNamespace(targets=("onnx",)), SimpleNamespace(quality=())
    wanted: Any = SimpleNamespace(export=export, verify=checked, guard=None)
    base: Any = SimpleNamespace(picture_size=(8, 8))
    nothing: Any = None
    with pytest.raises(Inconclusive, match="can't be opened"):  # before training
        prove_base(wanted, base, {}, nothing, exports=True)
    prove_base(wanted, base, {}, nothing, exports=False)
    wanted.export.targets = ()
    prove_base(wanted, base, {}, nothing, exports=True)


@pytest.mark.usefixtures("listed")
def test_without_a_gpu_the_cpu_draws() -> None:
    assert drawing_provider() == CPU_PROVIDER


@pytest.mark.usefixtures("listed")
def test_bf16_is_not_compared_where_nothing_computes_it() -> None:
    nothing: Any = None
    assert engine_report._compared(nothing, Path(), "bf16", None) is None


@pytest.mark.usefixtures("gpu")
def test_cuda_draws_where_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA_PROVIDER])
    monkeypatch.setattr(providers, "why_not", lambda provider, device_id: None)
    assert drawing_provider() == CUDA_PROVIDER
