"""Names, types and weights of exported graphs, and what is refused."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from onnx.reference import ReferenceEvaluator
from tiny import (
    NUM_TOKENS,
    TEXT_DIM,
    fresh_engine,
    fresh_unet,
    perturb,
    tiny_engine,
    tiny_unet,
    unet_of,
)

from safediff.errors import Inconclusive, UsageError
from safediff.export import graph, operators, to_onnx
from safediff.export.engine_files import DATA_NAME, ENGINE_FILES, MODEL_NAME, read_metadata
from safediff.export.identity import initializers_sha256, read_precision, verify_identity
from safediff.export.runtime import ExportedUNet
from safediff.export.signature import widens_scores
from safediff.export.to_onnx import export_denoiser, swap_weights
from safediff.models.patch import unet_sha256

FORMS = [(False, "fp32", 18), (False, "fp16", 23), (True, "fp32", 23)]
TOLERANCE = {"fp32": 2e-5, "fp16": 2e-2}


def call_arguments(
    unet: UNet2DConditionModel, batch: int, height: int, width: int
) -> dict[str, object]:
    xl = unet.config.addition_embed_type == "text_time"
    generator = torch.Generator().manual_seed(batch)
    arguments: dict[str, object] = {
        "sample": torch.randn(batch, 4, height, width, generator=generator),
        "timestep": torch.tensor(946.26),
        "encoder_hidden_states": torch.randn(
            batch, NUM_TOKENS, unet.config.cross_attention_dim, generator=generator
        ),
    }
    if xl:
        arguments["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, TEXT_DIM, generator=generator),
            "time_ids": torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]]).repeat(batch, 1),
        }
    return arguments


def relative_error(engine: Path, unet: UNet2DConditionModel, *shape: int) -> float:
    arguments = call_arguments(unet, *shape)
    with torch.no_grad():
        expected = unet(**arguments).sample
    found = ExportedUNet(engine, num_threads=1)(**arguments).sample
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_keeps_its_name(form: tuple) -> None:
    xl, precision, opset = form
    unet = fresh_unet(xl)  # half of its parameters are equal to others
    path = fresh_engine(*form) / MODEL_NAME
    model = onnx.load(path, load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {f"unet.{key}" for key in unet.state_dict()} <= names
    verify_identity(path, unet.state_dict())
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    assert read_precision(path) == precision


@pytest.mark.parametrize("form", FORMS)
def test_inputs_and_outputs(form: tuple) -> None:
    xl, precision, _ = form
    found = {}
    model = ir.load(fresh_engine(*form) / MODEL_NAME)
    for value in (*model.graph.inputs, *model.graph.outputs):
        found[value.name] = (str(value.dtype), [str(size) for size in value.shape])
    kind = {"fp32": "FLOAT", "fp16": "FLOAT16"}[precision]
    expected = {
        "sample": (kind, ["batch", "4", "height", "width"]),
        "timestep": ("FLOAT", []),
        "encoder_hidden_states": (kind, ["batch", "77", str(TEXT_DIM * (1 + xl))]),
        "out_sample": (kind, ["batch", "4", "height", "width"]),
    }
    if xl:
        expected["text_embeds"] = (kind, ["batch", str(TEXT_DIM)])
        expected["time_ids"] = (kind, ["batch", "6"])
    assert found == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 10), (70, 2, 2)])
def test_swapped_engine_predicts_the_same_noise(form: tuple, shape: tuple) -> None:
    assert relative_error(tiny_engine(*form), tiny_unet(form[0]), *shape) < TOLERANCE[form[1]]
    assert relative_error(fresh_engine(*form), tiny_unet(form[0]), *shape) > 0.1


def test_half_precision_export_is_silent_and_leaves_the_unet_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    unet, folder = tiny_unet(xl=True), tmp_path / "engine"
    unet.register_to_config(_name_or_path="/home/somebody/models")
    path = export_denoiser(unet, folder, precision="fp16", metadata={"policy": "abc"})
    assert capfd.readouterr() == ("", "")
    assert unet.dtype == torch.float32
    assert unet_sha256(unet) == unet_sha256(tiny_unet(xl=True))
    assert {file.name for file in folder.iterdir()} == ENGINE_FILES
    assert [entry.name for entry in tmp_path.iterdir()] == ["engine"]
    assert read_metadata(path) == {"policy": "abc"}
    assert relative_error(folder, unet, 2, 8, 8) < TOLERANCE["fp16"]
    for file in folder.iterdir():  # no path of the machine that exported
        assert b"/home/" not in file.read_bytes()
        assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()
    assert json.loads((folder / "config.json").read_text())["sample_size"] == 8


def test_hash_of_a_float32_engine_is_that_of_its_unet() -> None:
    assert initializers_sha256(tiny_engine() / MODEL_NAME) == unet_sha256(tiny_unet())
    assert initializers_sha256(tiny_engine() / MODEL_NAME) != unet_sha256(tiny_unet(seed=5))


@pytest.mark.parametrize("key", ["conv_out.bias", "mid_block.attentions.0.proj_in.weight"])
def test_a_foreign_weight_is_found(key: str) -> None:
    state = tiny_unet().state_dict()
    state[key].view(-1)[-1] += 1e-6
    with pytest.raises(Inconclusive, match=f"unet.{key} differs"):
        verify_identity(tiny_engine() / MODEL_NAME, state)


def test_half_precision_identity_is_that_of_the_cast_weights() -> None:
    path = tiny_engine(False, "fp16", 23) / MODEL_NAME
    state = tiny_unet().state_dict()
    verify_identity(path, state)
    state["conv_in.weight"] *= 1.01
    with pytest.raises(Inconclusive, match=r"conv_in\.weight differs"):
        verify_identity(path, state)


def test_a_weight_that_is_held_but_not_used_is_found(tmp_path: Path) -> None:
    model = ir.load(tiny_engine() / MODEL_NAME)
    slots = model.graph.initializers
    bias = "unet.down_blocks.0.resnets.0.conv1.bias"
    slots[bias].replace_all_uses_with(slots["unet.conv_in.bias"])
    ir.save(model, tmp_path / MODEL_NAME, external_data=DATA_NAME)
    with pytest.raises(Inconclusive, match=f"holds {bias} but does not compute"):
        verify_identity(tmp_path / MODEL_NAME, tiny_unet().state_dict())


def test_a_lost_parameter_stops_the_export() -> None:
    model = ir.load(tiny_engine() / MODEL_NAME)
    del model.graph.initializers["unet.conv_out.bias"]
    with pytest.raises(RuntimeError, match=r"1 parameters lost .* unet\.conv_out\.bias"):
        graph.require_names(model, "unet.", tiny_unet().state_dict())


def test_swap_refuses_other_architectures(tmp_path: Path) -> None:
    state = tiny_unet().state_dict()
    with pytest.raises(UsageError, match="is the engine that is read"):
        swap_weights(tiny_engine(), tiny_engine(), state, metadata={})
    missing = {key: value for key, value in state.items() if key != "conv_in.bias"}
    with pytest.raises(UsageError, match=r"1 parameter names differ .* unet\.conv_in\.bias"):
        swap_weights(tiny_engine(), tmp_path / "a", missing, metadata={})
    wrong = state | {"conv_in.bias": torch.zeros(3)}
    with pytest.raises(UsageError, match=r"unet\.conv_in\.bias: the weights have shape \(3,\)"):
        swap_weights(tiny_engine(), tmp_path / "a", wrong, metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_weights_are_one_clear_line(tmp_path: Path, damage: str) -> None:
    shutil.copytree(tiny_engine(), tmp_path / "e")
    data = tmp_path / "e" / DATA_NAME
    if damage == "truncate":
        data.write_bytes(data.read_bytes()[:1000])
    else:
        data.unlink()
    with pytest.raises(Inconclusive) as caught:
        verify_identity(tmp_path / "e" / MODEL_NAME, tiny_unet().state_dict())
    assert "can't be read" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / MODEL_NAME).write_bytes(b"not protobuf")
    with pytest.raises(Inconclusive, match="not a readable ONNX file"):
        verify_identity(tmp_path / MODEL_NAME, {})
    with pytest.raises(Inconclusive, match="no such engine"):
        read_metadata(tmp_path / "missing.onnx")


def test_other_families_are_refused(tmp_path: Path) -> None:
    unet = fresh_unet()
    unet.register_to_config(time_cond_proj_dim=32)
    with pytest.raises(UsageError, match="needs time_cond_proj_dim"):
        export_denoiser(unet, tmp_path / "e")
    unet = fresh_unet()
    unet.register_to_config(addition_embed_type="image")
    with pytest.raises(UsageError, match="needs image"):
        export_denoiser(unet, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> ir.Model:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(to_onnx, "build_graph", broken)
    with pytest.raises(Inconclusive, match=r"could not be exported: RuntimeError: first line$"):
        export_denoiser(fresh_unet(), tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


# torch's own export code still uses what torch deprecates
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")
def test_a_graph_with_an_in_place_operator_is_decomposed() -> None:
    class InPlace(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clone().relu_()

    class Functional(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    example = (torch.ones(2),)
    for module, kept in ((InPlace(), False), (Functional(), True)):
        program = torch.export.export(module, example)
        decomposed = graph._as_decomposed(program, ()).run_decompositions({})
        assert (decomposed is program) == kept


@pytest.mark.parametrize("opset", [18, 20])
def test_gelu_is_one_operator_of_the_runtime(opset: int, tmp_path: Path) -> None:
    path = export_denoiser(tiny_unet(), tmp_path / "engine", opset=opset)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    found = {node.op_type for node in model.graph.node}
    assert "Gelu" in found
    assert "Erf" not in found


def test_sizes_are_read_from_the_first_tensor_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked() -> set[str | None]:
        """The tensors that are asked for one of their sizes."""
        nodes = graph.build_graph(tiny_unet(), 18, 77).graph
        return {n.inputs[0].name for n in nodes if n.op_type == "Shape" and "end" in n.attributes}

    early = asked()
    assert "sample" in early
    assert len(early) == 2  # one for each resolution
    monkeypatch.setattr(graph, "_read_sizes_early", lambda _: None)
    assert len(asked()) > 2


def test_attention_takes_few_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted() -> Counter[str]:
        return Counter(n.op_type for n in graph.build_graph(tiny_unet(), 18, 77).graph)

    own = counted()
    monkeypatch.setattr(operators, "OF_A_DENOISER", {})
    exporters = counted()
    assert own["Softmax"] == exporters["Softmax"] > 0
    for name in ("Shape", "Slice", "Concat", "Reshape"):
        assert own[name] <= exporters[name] - own["Softmax"]


@pytest.mark.parametrize(
    "unusual",
    [
        {"attn_mask": ir.Value(type=ir.TensorType(ir.DataType.BOOL))},
        {"dropout_p": 0.1},
        {"is_causal": True},
        {"enable_gqa": True},
    ],
)
def test_attention_of_another_kind_is_not_translated(unusual: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="mask"):
        operators._attention(ir.Value(), None, None, **unusual)
    with pytest.raises(NotImplementedError, match="mask"):
        operators._wide_attention(ir.Value(), None, None, **unusual)


def large_scores(upcast: bool) -> UNet2DConditionModel:
    """A UNet of SD 2.x whose first attention has scores of hundred thousands, as some of 2.1 do.

    Of more layers the roundings of queries would add up: they decide which token is seen.
    """
    unet = perturb(unet_of("sd-v"))
    unet.register_to_config(upcast_attention=upcast)
    with torch.no_grad():
        attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
        for layer in (attention.to_q, attention.to_k):
            layer.weight *= 1000
    return unet.half()


# numpy says where it leaves the range
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("upcast", [True, False])
def test_scores_beyond_half_precision(upcast: bool) -> None:
    """By onnx's own evaluator: ONNX Runtime's CPU computes float16 in float32, GPUs do not."""
    unet = large_scores(upcast)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 8, 8, generator=generator).half()
    c = torch.randn(1, NUM_TOKENS, TEXT_DIM, generator=generator).half()
    evaluator = ReferenceEvaluator(ir.to_proto(graph.build_graph(unet, 18, NUM_TOKENS)))
    feeds = {"sample": z, "timestep": torch.tensor(501.0), "encoder_hidden_states": c}
    found = torch.from_numpy(evaluator.run(None, {n: t.numpy() for n, t in feeds.items()})[0])
    assert found.dtype == torch.float16
    if not upcast:  # what happened before, and to networks that do not ask for it
        assert not found.isfinite().all()
        return
    with torch.no_grad():
        expected = unet.float()(z.float(), 501, c.float(), return_dict=False)[0]
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_only_half_precision_needs_wide_scores() -> None:
    says, silent = FrozenDict(upcast_attention=True), FrozenDict(upcast_attention=None)
    assert widens_scores(says, torch.float16)
    assert not widens_scores(says, torch.float32)
    assert not widens_scores(says, torch.bfloat16)
    assert not widens_scores(silent, torch.float16)
    assert not widens_scores(FrozenDict(), torch.float16)
