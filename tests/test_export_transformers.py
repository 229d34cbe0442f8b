"""Engines of the transformer families: names, inputs, weights, and that they draw the same."""

import functools
import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from tiny import LATENT_SIZE, fresh_unet
from transformer_examples import Example, example

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import (
    CONFIG_NAME,
    DATA_NAME,
    MODEL_NAME,
    Precision,
    read_metadata,
)
from safediff.export.identity import initializers_sha256, read_precision, verify_identity
from safediff.export.runtime import ExportedTransformer, ExportedUNet, open_denoiser
from safediff.export.signature import signature_of
from safediff.export.to_onnx import export_denoiser, swap_weights
from safediff.models.backbone import Condition
from safediff.models.flux import Flux
from safediff.models.patch import unet_sha256

# diffusers' DPM solver computes with NumPy on tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
FORMS: list[tuple[str, Precision]] = [
    ("pixart-alpha 1024", "fp32"),
    ("sd3.5", "fp32"),
    ("flux dev", "fp32"),
    ("flux dev", "fp16"),
]
VARIANTS = [variant for variant, precision in FORMS if precision == "fp32"]
TOLERANCE = {"fp32": 5e-5, "fp16": 2e-2}
"""In standard deviations; FLUX reads 1000 times its guidance scale through sine and cosine."""
SIDE = LATENT_SIZE
TEXTS = ["an axe", "a picture of an owl", ""]
INPUTS = {
    "pixart-alpha 1024": {
        "hidden_states": ("FLOAT", ["batch", "4", "height", "width"]),
        "encoder_hidden_states": ("FLOAT", ["batch", "sequence_length", "16"]),
        "encoder_attention_mask": ("INT64", ["batch", "sequence_length"]),
        "timestep": ("FLOAT", ["batch"]),
        "resolution": ("FLOAT", ["batch", "2"]),
        "aspect_ratio": ("FLOAT", ["batch", "1"]),
        "out_hidden_states": ("FLOAT", ["batch", "8", "height", "width"]),
    },
    "sd3.5": {
        "hidden_states": ("FLOAT", ["batch", "16", "height", "width"]),
        "encoder_hidden_states": ("FLOAT", ["batch", "sequence_length", "32"]),
        "pooled_projections": ("FLOAT", ["batch", "32"]),
        "timestep": ("FLOAT", ["batch"]),
        "out_hidden_states": ("FLOAT", ["batch", "16", "height", "width"]),
    },
    "flux dev": {
        "hidden_states": ("FLOAT16", ["batch", "packed_height_width", "64"]),
        "encoder_hidden_states": ("FLOAT16", ["batch", "sequence_length", "16"]),
        "pooled_projections": ("FLOAT16", ["batch", "16"]),
        "timestep": ("FLOAT", ["batch"]),
        "txt_ids": ("FLOAT", ["sequence_length", "3"]),
        "img_ids": ("FLOAT", ["packed_height_width", "3"]),
        "guidance": ("FLOAT", ["batch"]),
        "out_hidden_states": ("FLOAT16", ["batch", "packed_height_width", "64"]),
    },
}


@functools.cache
def tiny(variant: str) -> Example:
    return example(variant, _folder("tokenizer"))


@functools.cache
def other_state(variant: str) -> dict[str, torch.Tensor]:
    """The state of a network that is nowhere the same."""
    generator = torch.Generator().manual_seed(7)
    state = tiny(variant).backbone.denoiser.state_dict()
    return {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in state.items()}


def engine(variant: str, precision: Precision = "fp32") -> Path:
    """Engine folder of ``tiny``, exported once."""
    folder = _folder(f"{variant}-{precision}")
    if not folder.exists():
        transformer, meta = tiny(variant).backbone.denoiser, {"policy": "abc"}
        export_denoiser(transformer, folder, precision=precision, num_tokens=3, metadata=meta)
    return folder


_ROOT: list[Path] = []


def _folder(name: str) -> Path:
    return _ROOT[0] / name


@pytest.fixture(scope="module", autouse=True)
def _root(tmp_path_factory: pytest.TempPathFactory) -> None:
    _ROOT[:] = [tmp_path_factory.mktemp("engines")]


def opened(variant: str, precision: Precision = "fp32") -> ExportedTransformer:
    found = open_denoiser(engine(variant, precision), num_threads=1)
    assert isinstance(found, ExportedTransformer)
    return found


def compared(variant: str, denoiser: Any, batch: int, height: int, width: int) -> float:
    """The largest difference from PyTorch through the backbone, in standard deviations."""
    model = tiny(variant).backbone
    generator = torch.Generator().manual_seed(batch)
    z = torch.randn(batch, model.latent_shape[0], height, width, generator=generator)
    c = model.encode((TEXTS * batch)[:batch])
    t = torch.full((batch,), 946.26) - 100 * torch.arange(batch)  # each row has its own
    with torch.no_grad():
        expected = model.denoise(z, t, c)
    found = model.with_denoiser(denoiser).denoise(z, t, c)
    assert found.dtype == z.dtype
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize(("variant", "precision"), FORMS)
def test_every_parameter_keeps_its_name(variant: str, precision: Precision) -> None:
    transformer, path = tiny(variant).backbone.denoiser, engine(variant, precision) / MODEL_NAME
    names = ir.load(path).graph.initializers.keys()
    kept = {name for name in names if name.startswith("transformer.")}
    assert kept == {f"transformer.{key}" for key in transformer.state_dict()}
    verify_identity(path, transformer.state_dict())
    assert read_precision(path) == precision
    assert read_metadata(path) == {"policy": "abc"}
    if precision == "fp32":
        assert initializers_sha256(path) == unet_sha256(transformer)


@pytest.mark.parametrize(("variant", "precision"), [*FORMS[:2], FORMS[3]])
def test_inputs_and_outputs(variant: str, precision: Precision) -> None:
    graph = ir.load(engine(variant, precision) / MODEL_NAME).graph
    found = {
        value.name: (str(value.dtype), [str(size) for size in value.shape])
        for value in (*graph.inputs, *graph.outputs)
    }
    assert found == INPUTS[variant]


@pytest.mark.parametrize(("variant", "precision"), FORMS)
@pytest.mark.parametrize("shape", [(1, SIDE, SIDE), (3, 4, 6)])
def test_the_engine_answers_as_pytorch_does(
    variant: str, precision: Precision, shape: tuple[int, int, int]
) -> None:
    assert compared(variant, opened(variant, precision), *shape) < TOLERANCE[precision]


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_weights_in_the_same_graph(variant: str, tmp_path: Path) -> None:
    swap_weights(engine(variant), tmp_path / "e", other_state(variant), metadata={"of": "other"})
    path = tmp_path / "e" / MODEL_NAME
    verify_identity(path, other_state(variant))
    assert read_metadata(path) == {"of": "other"}
    swapped = open_denoiser(tmp_path / "e", num_threads=1)
    assert compared(variant, swapped, 2, SIDE, SIDE) > 0.1
    transformer = tiny(variant).backbone.denoiser
    before = {key: tensor.clone() for key, tensor in transformer.state_dict().items()}
    transformer.load_state_dict(other_state(variant))
    try:
        assert compared(variant, swapped, 2, SIDE, SIDE) < TOLERANCE["fp32"]
    finally:
        transformer.load_state_dict(before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tampered_weight_is_found(variant: str, tmp_path: Path) -> None:
    state = tiny(variant).backbone.denoiser.state_dict()
    model = ir.load(engine(variant) / MODEL_NAME)
    slots = model.graph.initializers
    name = next(n for n in slots if n.endswith("to_k.weight"))
    changed = slots[name].const_value.numpy().copy()
    changed[0, 0] += 1e-6
    slots[name].const_value = ir.tensor(changed, name=name)
    ir.save(model, tmp_path / MODEL_NAME, external_data=DATA_NAME)
    with pytest.raises(Inconclusive, match=f"{name} differs from the weights"):
        verify_identity(tmp_path / MODEL_NAME, state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_exchanged_weights_are_found(variant: str, tmp_path: Path) -> None:
    """Two layers of one shape, each under the other's name."""
    state = tiny(variant).backbone.denoiser.state_dict()
    model = ir.load(engine(variant) / MODEL_NAME)
    slots = model.graph.initializers
    key = next(n for n in slots if n.endswith("to_k.weight"))
    value = key.replace("to_k", "to_v")
    slots[key].const_value, slots[value].const_value = (
        slots[value].const_value,
        slots[key].const_value,
    )
    ir.save(model, tmp_path / MODEL_NAME, external_data=DATA_NAME)
    with pytest.raises(Inconclusive, match="differs from the weights"):
        verify_identity(tmp_path / MODEL_NAME, state)


def test_a_weight_that_is_held_but_not_used_is_found(tmp_path: Path) -> None:
    model = ir.load(engine("sd3.5") / MODEL_NAME)
    slots = model.graph.initializers
    bias = "transformer.transformer_blocks.0.attn.add_k_proj.bias"
    slots[bias].replace_all_uses_with(slots[bias.replace("add_k", "add_v")])
    ir.save(model, tmp_path / MODEL_NAME, external_data=DATA_NAME)
    with pytest.raises(Inconclusive, match=f"holds {bias} but does not compute"):
        verify_identity(tmp_path / MODEL_NAME, tiny("sd3.5").backbone.denoiser.state_dict())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    flux = tiny("flux dev").backbone.denoiser.state_dict()
    path = engine("sd3.5")
    with pytest.raises(UsageError, match="parameter names differ"):
        verify_identity(path / MODEL_NAME, flux)
    with pytest.raises(UsageError, match="parameter names differ"):
        verify_identity(path / MODEL_NAME, fresh_unet().state_dict())
    with pytest.raises(UsageError, match="parameter names differ"):
        swap_weights(path, tmp_path / "e", flux, metadata={})
    state = tiny("sd3.5").backbone.denoiser.state_dict()
    wrong = state | {"proj_out.bias": torch.zeros(3)}
    with pytest.raises(UsageError, match=r"transformer\.proj_out\.bias: the weights have shape"):
        swap_weights(path, tmp_path / "e", wrong, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_networks_without_a_description_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Linear: the ONNX export covers UNet2DConditionModel"):
        signature_of(type(torch.nn.Linear(1, 1)).__name__)
    vae = tiny("sd3.5").backbone.vae
    with pytest.raises(UsageError, match="AutoencoderKL: the ONNX export covers"):
        export_denoiser(vae, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_diffusers_own_pipeline_draws_with_it(variant: str) -> None:
    found = tiny(variant)
    z = torch.randn(2, found.backbone.latent_shape[0], SIDE, SIDE)
    expected = found.latents(TEXTS[:2], 3.5, z, steps=2)
    found.pipeline.transformer = opened(variant)
    try:
        drawn = found.latents(TEXTS[:2], 3.5, z, steps=2)
    finally:
        found.pipeline.transformer = found.backbone.denoiser
    assert (drawn - expected).abs().max() < 1e-4 * expected.std()


def arguments(variant: str, **changed: Any) -> dict[str, Any]:
    """Of a call that the engine takes, with changes."""
    given: dict[str, Any] = {}
    sizes = {"batch": 2, "height": 4, "width": 4, "sequence_length": 5, "packed_height_width": 4}
    model = opened(variant)
    for value in signature_of(model.config["_class_name"]).inputs(model.config, 5):
        given[value.name] = torch.ones([sizes.get(str(size), size) for size in value.shape])
    return given | changed


@pytest.mark.parametrize(
    ("variant", "changed", "error", "message"),
    [
        ("sd3.5", {"skip_layers": [1]}, TypeError, "no input 'skip_layers'"),
        ("sd3.5", {"joint_attention_kwargs": {"scale": 0.5}}, TypeError, "no input 'scale'"),
        ("sd3.5", {"pooled_projections": None}, TypeError, "needs pooled_projections"),
        ("flux dev", {"guidance": None}, TypeError, "needs guidance"),
        ("flux dev", {"img_ids": torch.ones(5, 3)}, ValueError, r"img_ids has shape \(5, 3\)"),
        ("flux dev", {"txt_ids": torch.ones(1, 5, 3)}, ValueError, "txt_ids has shape"),
        ("sd3.5", {"timestep": torch.ones(3)}, ValueError, "timestep has shape"),
        ("sd3.5", {"hidden_states": torch.ones(2, 16, 3, 4)}, ValueError, "multiples of 2"),
        ("sd3.5", {"hidden_states": torch.ones(2, 16, 4, 26)}, ValueError, "takes up to 24"),
        ("pixart-alpha 1024", {"resolution": None}, TypeError, "needs resolution"),
    ],
)
def test_what_would_be_ignored_or_does_not_fit_is_refused(
    variant: str, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened(variant)(**arguments(variant, **changed))


def test_one_timestep_stands_for_the_batch() -> None:
    engine_of = opened("sd3.5")
    many = engine_of(**arguments("sd3.5", timestep=torch.full((2,), 7.5))).sample
    for one in (7.5, torch.tensor(7.5)):
        (found,) = engine_of(**arguments("sd3.5", timestep=one), return_dict=False)
        assert torch.equal(found, many)


def test_half_precision_takes_the_same_inputs() -> None:
    """Latents and conditions stay in float32 on the CPU; the engine casts what it is given."""
    model = tiny("flux dev").backbone
    assert isinstance(model, Flux)
    half = opened("flux dev", "fp16")
    assert half.dtype == torch.float16
    c: Condition = model.at_scale(model.encode(["an axe"]), 2.0)
    z = torch.randn(1, *model.latent_shape)
    t = torch.tensor(500.0)
    found = model.with_denoiser(half).denoise(z, t, c)
    assert c.hidden.dtype == found.dtype == torch.float32
    with torch.no_grad():
        expected = model.denoise(z, t, c)
    assert 0 < float((found - expected).abs().max() / expected.std()) < TOLERANCE["fp16"]


def test_an_engine_is_opened_as_what_it_is(tmp_path: Path) -> None:
    shutil.copytree(engine("sd3.5"), tmp_path / "e")
    (tmp_path / "e" / CONFIG_NAME).write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(Inconclusive, match="not the configuration of an exported transformer"):
        open_denoiser(tmp_path / "e")
    (tmp_path / "e" / CONFIG_NAME).write_text("{}")
    with pytest.raises(Inconclusive, match="not the configuration of an exported UNet"):
        open_denoiser(tmp_path / "e")
    assert not isinstance(opened("sd3.5"), ExportedUNet)
