"""Providers other than the CPU, as far as they can be tested without one: options and bindings."""

import ctypes
import json
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
from serving_examples import exported
from tiny import NUM_TOKENS, TEXT_DIM, tiny_engine
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export.providers import CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER, Execution
from safediff.export.session import EXACT_PRODUCTS, SPINNING, Session
from safediff.export.to_tensorrt import Profile
from safediff.guard.load import make_guard
from safediff.serve.pipeline import SafePipeline, _profile

PROFILE = Profile(min_batch=1, opt_batch=2, max_batch=16, min_side=8, opt_side=8, max_side=8)
Bound = dict[str, tuple[str, int, Any, tuple[int, ...], int]]


class FakeBinding:
    def __init__(self) -> None:
        self.inputs: Bound = {}
        self.outputs: Bound = {}
        self.said: list[str] = []

    def bind_input(self, name: str, *place: Any) -> None:
        self.inputs[name] = place  # type: ignore[assignment]

    def bind_output(self, name: str, *place: Any) -> None:
        self.outputs[name] = place  # type: ignore[assignment]

    def synchronize_inputs(self) -> None:
        self.said.append("inputs")

    def synchronize_outputs(self) -> None:
        self.said.append("outputs")


class FakeSession:
    """Writes twice its first input to its output, by the addresses that were bound."""

    def __init__(self) -> None:
        self.bindings: list[FakeBinding] = []
        self.options: list[Any] = []

    def io_binding(self) -> FakeBinding:
        self.bindings.append(FakeBinding())
        return self.bindings[-1]

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        binding.said.append("run")
        self.options.append(options)
        ((_, _, _, shape, source), *_), ((_, _, _, wanted, target),) = (
            [*binding.inputs.values()],
            [*binding.outputs.values()],
        )
        assert shape == wanted
        count = torch.Size(shape).numel()
        read = (ctypes.c_float * count).from_address(source)
        (ctypes.c_float * count).from_address(target)[:] = [2 * value for value in read]


def session(**execution: Any) -> tuple[Session, FakeSession]:
    """One that binds, with tensors that lie on the CPU after all."""
    found, fake = Session(tiny_engine() / "model.onnx", Execution(num_threads=1)), FakeSession()
    found.ort, found.execution = fake, Execution(**execution)
    return found, fake


def feeds(value: float, batch: int = 2) -> dict[str, Tensor]:
    return {
        "sample": torch.full((batch, 4, 8, 8), value),
        "encoder_hidden_states": torch.zeros(batch, NUM_TOKENS, TEXT_DIM),
        "timestep": torch.tensor(501.0),
    }


def run(found: Session, value: float, batch: int = 2) -> Tensor:
    shapes = {"out_sample": (batch, 4, 8, 8)}
    return found._run_bound(feeds(value, batch), shapes)["out_sample"]


def test_tensors_are_bound_where_they_lie() -> None:
    found, fake = session()
    held = feeds(1.5)
    result = found._run_bound(held, {"out_sample": (2, 4, 8, 8)})["out_sample"]
    (binding,) = fake.bindings
    assert binding.said == ["inputs", "run", "outputs"]
    assert {n: (p[3], p[4]) for n, p in binding.inputs.items()} == {
        name: (tuple(tensor.shape), tensor.data_ptr()) for name, tensor in held.items()
    }
    assert binding.outputs["out_sample"][4] == result.data_ptr()
    assert binding.outputs["out_sample"][4] != held["sample"].data_ptr()  # the sampler needs it
    assert torch.equal(result, torch.full((2, 4, 8, 8), 3.0))


def test_a_recorded_graph_keeps_its_addresses_and_its_results_apart() -> None:
    found, fake = session(provider=CUDA_PROVIDER, cuda_graph=True)
    first, second, other = run(found, 1.0), run(found, 2.0), run(found, 3.0, batch=4)
    assert [float(t[0, 0, 0, 0]) for t in (first, second, other)] == [2.0, 4.0, 6.0]
    assert len(fake.bindings) == 2  # one for each size
    ids = [options.get_run_config_entry("gpu_graph_id") for options in fake.options]
    assert ids == ["1", "1", "2"]


def test_the_cuda_provider_records_on_request() -> None:
    path = tiny_engine() / "model.onnx"
    options = Execution(provider=CUDA_PROVIDER).options(path)
    assert options == {
        "device_id": "0",
        "enable_cuda_graph": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    recording = Execution(provider=CUDA_PROVIDER, cuda_graph=True)
    assert recording.options(path)["enable_cuda_graph"] == "1"
    with pytest.raises(UsageError, match="CPUExecutionProvider: has no CUDA graphs"):
        Session(path, Execution(cuda_graph=True))


def test_tensorrt_is_told_the_sizes_and_keeps_no_engines() -> None:
    execution = Execution(provider=TENSORRT_PROVIDER, profile=PROFILE)
    assert execution.device.type == "cuda"
    assert execution.options(tiny_engine() / "model.onnx") == {
        "device_id": "0",
        "trt_engine_cache_enable": "0",
        "trt_cuda_graph_enable": "0",
        "trt_profile_min_shapes": "sample:1x4x8x8,encoder_hidden_states:1x77x16",
        "trt_profile_opt_shapes": "sample:2x4x8x8,encoder_hidden_states:2x77x16",
        "trt_profile_max_shapes": "sample:16x4x8x8,encoder_hidden_states:16x77x16",
    }
    parts = execution.options(exported() / "text_encoder" / "model.onnx")
    assert parts["trt_profile_max_shapes"] == "input_ids:16x77"
    parts = execution.options(exported() / "vae_decoder" / "model.onnx")
    assert parts["trt_profile_opt_shapes"] == "latent_sample:2x4x8x8"
    assert "trt_profile_min_shapes" not in Execution(provider=TENSORRT_PROVIDER).options(Path())


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not protobuf")
    with pytest.raises(Inconclusive, match="not a readable ONNX file"):
        Execution(provider=TENSORRT_PROVIDER, profile=PROFILE).options(tmp_path / "model.onnx")


@pytest.mark.parametrize(("asked", "entry"), [({}, None), ({"spin": False}, "0")], ids=str)
def test_whether_threads_wait_busily_reaches_every_session(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], entry: str | None
) -> None:
    opened, told = ort.InferenceSession, []

    def recorded(path: str, options: Any, providers: list[Any]) -> ort.InferenceSession:
        told.append([_entry(options, name) for name in SPINNING])
        return opened(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", recorded)
    SafePipeline.from_release(exported(), num_threads=1, **asked)
    assert told == [[entry, entry]] * 3  # denoiser, text encoder, decoder


def test_int8_products_are_exact_on_every_processor() -> None:
    """On one without VNNI ``test_export_calibration`` sees overflow; elsewhere nothing does."""
    session = Session(tiny_engine() / "model.onnx", Execution())
    assert _entry(session.ort.get_session_options(), EXACT_PRODUCTS) == "1"


def _entry(options: Any, name: str) -> str | None:
    try:
        return str(options.get_session_config_entry(name))
    except RuntimeError:  # it has none of that name
        return None


def test_the_options_reach_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def opened(path: str, options: Any, providers: list[Any]) -> None:
        seen.extend(providers)
        raise RuntimeError("no GPU")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT_PROVIDER])
    monkeypatch.setattr(ort, "InferenceSession", opened)
    with pytest.raises(Inconclusive, match="the engine can't be loaded: no GPU"):
        Session(tiny_engine() / "model.onnx", Execution(provider=TENSORRT_PROVIDER))
    ((name, options),) = seen
    assert (name, options["trt_engine_cache_enable"]) == (TENSORRT_PROVIDER, "0")


@pytest.mark.parametrize("provider", [CUDA_PROVIDER, CPU_PROVIDER])
def test_pytorchs_unused_memory_is_freed_before_a_session_is_opened(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    order: list[str] = []

    def opened(path: str, options: Any, providers: list[Any]) -> None:
        order.append("opened")
        raise RuntimeError("no GPU")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(ort, "InferenceSession", opened)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("freed"))
    with pytest.raises(Inconclusive, match="no GPU"):
        Session(tiny_engine() / "model.onnx", Execution(provider=provider))
    assert order == (["freed", "opened"] if provider == CUDA_PROVIDER else ["opened"])


def test_the_server_asks_for_what_it_draws() -> None:
    found = _profile(exported() / "unet", 8)
    assert (found.min_batch, found.max_batch) == (1, 8)
    assert found.min_side == found.max_side == 8


@pytest.mark.parametrize(("size", "side"), [([8, 8], 8), ([8, 16], None)])
def test_a_size_of_two_numbers(tmp_path: Path, size: list[int], side: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"sample_size": size}))
    if side is not None:
        assert _profile(tmp_path, 8).opt_side == side
        return
    with pytest.raises(UsageError, match="latents of 8 x 16: TensorRT's profiles are of square"):
        _profile(tmp_path, 8)


def test_a_guard_in_the_policys_place_takes_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def opened(*given: object, max_rows: int) -> None:
        asked.append(max_rows)
        raise Inconclusive("enough")

    monkeypatch.setattr("safediff.serve.pipeline._open", opened)
    for guard in (None, make_guard("sega", ["axe", "gun"])):
        with pytest.raises(Inconclusive, match="enough"):
            SafePipeline.from_release(
                exported(), guard=guard, max_batch=4, accept_unverified="a trial without users"
            )
    assert asked == [8, 16]
