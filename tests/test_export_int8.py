"""int8 engines hold the quantised weights of the model they are of, and of no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from tiny import tiny_backbone, tiny_engine, tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import CONFIG_NAME, DATA_NAME, MODEL_NAME, read_metadata
from safediff.export.identity import read_precision, verify_identity
from safediff.export.int8 import add_initializer, int8_weights, quantize_engine
from safediff.export.parity import measure_parity
from safediff.export.runtime import ExportedUNet
from safediff.export.to_onnx import swap_weights


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "engine"
    quantize_engine(tiny_engine(), folder, {"policy": "small"})
    return folder


def test_linear_layers_become_int8_under_their_names(engine: Path) -> None:
    state = tiny_unet().state_dict()
    found = ir.load(engine / MODEL_NAME).graph.initializers
    matrices = {k for k, v in state.items() if v.ndim == 2}
    quantized = {n.removesuffix("_quantized") for n in found if n.endswith("_quantized")}
    assert quantized == {f"unet.{k}" for k in matrices}
    assert {f"unet.{k}" for k in state.keys() - matrices} <= set(found)
    assert read_precision(engine / MODEL_NAME) == "int8"
    assert read_metadata(engine / MODEL_NAME) == {"policy": "small"}


def test_weights_never_lie_in_one_file_with_the_graph(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file holds 2 GiB at most; convolutions alone can be more."""
    inline = []

    def quantize(source: Path, target: Path, **options: Any) -> None:
        quantize_dynamic(source, target, **options)
        graph = onnx.load(target, load_external_data=False).graph
        inline.append(max(len(tensor.raw_data) for tensor in graph.initializer))

    monkeypatch.setattr(onnxruntime.quantization, "quantize_dynamic", quantize)
    quantize_engine(tiny_engine(), tmp_path / "engine", {"policy": "small"})
    assert inline[0] <= 1024
    files = [CONFIG_NAME, MODEL_NAME, DATA_NAME]
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == files
    for name in files:
        assert (tmp_path / "engine" / name).read_bytes() == (engine / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_it_is_proved_to_be_this_model(engine: Path) -> None:
    verify_identity(engine / MODEL_NAME, tiny_unet().state_dict())


@pytest.mark.parametrize("ending", ["attn2.to_k.weight", "conv_in.weight", "norm1.bias"])
def test_other_weights_are_seen(engine: Path, ending: str) -> None:
    state = tiny_unet().state_dict()
    key = next(k for k in state if k.endswith(ending))
    state[key] = state[key] * 1.02
    with pytest.raises(Inconclusive, match="differs from the weights it should hold"):
        verify_identity(engine / MODEL_NAME, state)


def products(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "MatMulInteger"]


def shift_zero_point(model: ir.Model) -> None:
    """w = (q - 1) * scale, with q and scale as they were."""
    zero = products(model)[0].inputs[3]
    assert zero is not None
    assert zero.const_value is not None
    zero.const_value = ir.tensor(np.ones_like(zero.const_value.numpy()), name=zero.name)


def add_zero_point(model: ir.Model) -> None:
    """The same, under a name that says nothing."""
    node = products(model)[0]
    array = np.ones((), np.int8)
    node.replace_input_with(3, add_initializer(model.graph, "constant", array))


def read_another(model: ir.Model) -> None:
    """The weight lies there, and something else is multiplied with."""
    node = products(model)[0]
    q = node.inputs[1]
    assert q is not None
    assert q.const_value is not None
    other = add_initializer(model.graph, "constant", np.roll(q.const_value.numpy(), 1))
    node.replace_input_with(1, other)


def read_another_bias(model: ir.Model) -> None:
    bias = model.graph.initializers["unet.conv_in.bias"]
    assert bias.const_value is not None
    other = add_initializer(model.graph, "constant", bias.const_value.numpy() + 1)
    ir.convenience.replace_all_uses_with(bias, other)


@pytest.mark.parametrize(
    "change", [shift_zero_point, add_zero_point, read_another, read_another_bias]
)
def test_weights_that_lie_there_and_are_not_computed_with_are_seen(
    engine: Path, tmp_path: Path, change: Callable[[ir.Model], None]
) -> None:
    model = ir.load(engine / MODEL_NAME)
    change(model)
    ir.save(model, tmp_path / MODEL_NAME, external_data="model.onnx.data")
    with pytest.raises(Inconclusive, match="does not compute with it as it is"):
        verify_identity(tmp_path / MODEL_NAME, tiny_unet().state_dict())


def test_every_linear_layer_can_stay_as_it_is(tmp_path: Path) -> None:
    """Also those that the graph has as Gemm, of which the quantiser makes products first."""
    state = tiny_unet().state_dict()
    matrices = [key for key, w in state.items() if w.ndim == 2]
    source = ir.load(tiny_engine() / MODEL_NAME).graph
    read_by = {key: source.initializers[f"unet.{key}"].uses()[0][0].op_type for key in matrices}
    assert set(read_by.values()) == {"Gemm", "Transpose"}
    *kept, last = sorted(matrices, key=lambda key: read_by[key] == "Transpose")
    quantize_engine(tiny_engine(), tmp_path / "engine", {}, kept)
    found = ir.load(tmp_path / "engine" / MODEL_NAME).graph.initializers
    assert [n for n in found if n.endswith("_quantized")] == [f"unet.{last}_quantized"]
    verify_identity(tmp_path / "engine" / MODEL_NAME, state)
    for key in kept:
        stored = found[f"unet.{key}"].const_value
        assert stored is not None
        w = state[key].numpy()
        assert any(np.array_equal(stored.numpy(), form) for form in (w, w.T))


def test_a_kept_weight_that_was_turned_is_seen(tmp_path: Path) -> None:
    """A square one has the same shape, and the graph computes with its transposition."""
    state = tiny_unet().state_dict()
    key = next(k for k in state if k.endswith("to_q.weight"))
    assert state[key].shape[0] == state[key].shape[1]
    quantize_engine(tiny_engine(), tmp_path / "engine", {}, [key])
    verify_identity(tmp_path / "engine" / MODEL_NAME, state)
    model = ir.load(tmp_path / "engine" / MODEL_NAME)
    weight = model.graph.initializers[f"unet.{key}"]
    assert weight.const_value is not None
    turned = np.ascontiguousarray(weight.const_value.numpy().T)
    weight.const_value = ir.tensor(turned, name=weight.name)
    ir.save(model, tmp_path / MODEL_NAME, external_data=DATA_NAME)
    with pytest.raises(Inconclusive, match=f"unet.{key} differs from the weights it should hold"):
        verify_identity(tmp_path / MODEL_NAME, state)
    (read,) = [node for node, _ in weight.uses()]  # where products read it so, it is the same model
    ir.convenience.replace_all_uses_with(read.outputs[0], weight)
    model.graph.remove(read, safe=True)
    ir.save(model, tmp_path / MODEL_NAME, external_data=DATA_NAME)
    verify_identity(tmp_path / MODEL_NAME, state)


def test_a_weight_too_many_or_too_few_is_seen(engine: Path) -> None:
    state = tiny_unet().state_dict()
    with pytest.raises(UsageError, match="1 weights are not in the engine"):
        verify_identity(engine / MODEL_NAME, {**state, "more.weight": torch.ones(2, 2)})
    state.pop("conv_in.weight")
    with pytest.raises(UsageError, match="which the weights lack"):
        verify_identity(engine / MODEL_NAME, state)


def test_it_predicts_nearly_the_same_noise(engine: Path, tmp_path: Path) -> None:
    safe = tiny_backbone(tmp_path)
    compiled = safe.with_denoiser(ExportedUNet(engine, num_threads=1))
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = safe.encode(["a hammer", "a cat", ""])
    parity = measure_parity(compiled.denoise, safe.denoise, z, condition, precision="int8")
    assert parity.passed
    assert 1e-4 < parity.worst_max_abs < 1.0  # not the fp32 engine under another name
    other = safe.with_denoiser(tiny_unet(seed=5))
    parity = measure_parity(compiled.denoise, other.denoise, z, condition, precision="int8")
    assert not parity.passed


def test_rounding_is_to_the_nearest_step() -> None:
    weight = np.array([[1.27, -0.634, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    q, scale = int8_weights(weight)
    assert q.T.tolist() == [[127, -63, 0], [0, 0, 0]]
    assert scale.tolist() == pytest.approx([0.01, 1.0])


def test_weights_are_not_swapped_into_it(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whose scales belong to its weights"):
        swap_weights(engine, tmp_path / "x", tiny_unet(seed=3).state_dict(), metadata={})


def test_a_damaged_source_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / MODEL_NAME).write_bytes(b"nothing")
    (source / CONFIG_NAME).write_text("{}")
    with pytest.raises(Inconclusive, match="could not be quantised"):
        quantize_engine(source, tmp_path / "out", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
