"""bf16, which nothing here computes, and int8 weights, which save the file and nothing else."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from serving_examples import copy_of, recertified, release
from test_cli_verbs import Ran, here, said
from tiny import tiny_engine, tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.export.exported_unet import ExportedUNet
from safediff.export.identity import initializers_sha256, read_precision, verify_identity
from safediff.export.int8 import read_weight
from safediff.export.int8_weights import int8_channels, quantize_weights
from safediff.export.manifest import read_manifest
from safediff.export.survival import measure_survival
from safediff.export.to_onnx import swap_weights
from safediff.models.patch import state_sha256
from safediff.release.certificate_schema import read_certificate
from safediff.serve.trust import establish
from safediff.workflow.export import export_run

__all__ = ["here"]

CERTIFICATE = "safety-certificate.json"


@pytest.mark.usefixtures("traced_once")
def test_bf16_is_written_and_nothing_is_claimed_of_it(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "out"
    options = ("--onnx", "--full", "--precision", "bf16", "--out", out)
    assert said(here("export", release(), *options), 2).startswith("error: bf16 in opset 18: ONNX")
    done = here("export", release(), *options, "--opset", "23")
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOT RUN, no provider of ONNX Runtime here computes bf16" in done.stdout
    assert "weights identical" in done.stdout
    assert "edit survives" in done.stdout
    onnx.checker.check_model(str(out / "unet" / "model.onnx"), full_check=True)
    rounded = {key: w.bfloat16() for key, w in tiny_unet().state_dict().items()}
    assert initializers_sha256(out / "unet" / "model.onnx") == state_sha256(rounded)
    manifest = read_manifest(out)
    assert manifest is not None
    engine = manifest["engines"][0]
    assert (engine["precision"], engine["parity"], engine["passed"], engine["gate"]) == (
        "bf16",
        None,
        None,
        None,
    )
    rows = read_certificate(out / CERTIFICATE)["engines"]
    (row,) = [row for row in rows if row["part"] == "unet"]
    assert (row["precision"], row["parity"], row["gate"]) == ("bf16", None, None)
    assert (row["delta"], row["delta"]["survives"]) == (engine["delta"], True)
    trust = establish(out)  # the engine is not served
    assert trust.engine == "torch"
    assert "no gate report on it passed" in trust.remark


@pytest.mark.usefixtures("traced_once")
def test_bf16_holds_its_weights_or_is_refused(tmp_path: Path) -> None:
    export_run(release(), tmp_path / "e", "bf16", 23)
    path = tmp_path / "e" / "model.onnx"
    assert read_precision(path) == "bf16"
    verify_identity(path, tiny_unet().state_dict())
    with pytest.raises(Inconclusive, match="differs from the weights"):
        verify_identity(path, tiny_unet(seed=3).state_dict())


@pytest.mark.usefixtures("traced_once")
def test_bf16_cannot_be_gated_without_a_gpu(
    tmp_path: Path, here: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safediff.workflow.deploy.same_policy", lambda source, policy: policy)
    options = ("--onnx", "--full", "--precision", "bf16", "--opset", "23", "--gate", "p.yaml")
    out = tmp_path / "out"
    line = said(here("export", release(), *options, "--out", out), 3)
    assert "not written, no provider of ONNX Runtime here computes bf16" in line
    assert not out.exists()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engine folder of the tiny UNet; do not write to it."""
    folder = tmp_path_factory.mktemp("int8") / "e"
    quantize_weights(tiny_engine(), folder, {"policy": "p"})
    return folder


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_int8_weights_are_a_smaller_file_that_computes_nearly_the_same(stored: Path) -> None:
    assert read_precision(stored / "model.onnx") == "int8-weights"
    assert size_of(stored) < 0.8 * size_of(tiny_engine())  # most of this one is graph
    verify_identity(stored / "model.onnx", tiny_unet().state_dict())
    z, c = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    (found,) = ExportedUNet(stored, num_threads=1)(z, 501, c, return_dict=False)
    (expected,) = ExportedUNet(tiny_engine(), num_threads=1)(z, 501, c, return_dict=False)
    assert 0 < float((found - expected).abs().max() / expected.std()) < 0.5


def test_int8_weights_are_read_as_they_are_computed_with(stored: Path) -> None:
    """Also a square one, whose transpose has the same shape."""
    model, square = ir.load(stored / "model.onnx"), 0
    for key, weight in tiny_unet().state_dict().items():
        found = read_weight(model, key)
        assert found is not None, key
        assert found.shape == tuple(weight.shape), key
        step = float(weight.abs().max()) / 127
        assert np.abs(found - weight.numpy()).max() <= 0.5001 * step, key
        stored_as = model.graph.initializers.get(f"unet.{key}_quantized")
        square += stored_as is not None and weight.ndim == 2 and len(weight) == weight.shape[1]
    assert square > 0


def test_int8_weights_are_rounded_channel_by_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(np.float32)
    weight[1] *= 100
    weight[2] = 0
    q, scale = int8_channels(weight)
    assert (q.dtype, q.shape, scale.shape) == (np.int8, weight.shape, (5,))
    back = q * scale.reshape(5, 1, 1, 1)
    assert (np.abs(back - weight) <= 0.5001 * scale.reshape(5, 1, 1, 1)).all()
    assert (back[2] == 0).all()
    assert np.abs(q).reshape(5, -1).max(axis=1).tolist() == [127, 127, 0, 127, 127]


def planted(stored: Path, folder: Path, what: str) -> Path:
    """The engine with one thing wrong."""
    model = ir.load(stored / "model.onnx")
    graph = model.graph
    (name, *_) = [n for n in graph.initializers if n.endswith("_quantized")]
    value = graph.initializers[name]
    assert value.const_value is not None
    if what == "a step":
        array = np.array(value.const_value.numpy())
        array.flat[0] += 1 if array.flat[0] < 127 else -1
        value.const_value = ir.tensor(array, name=name)
    elif what == "a scale":
        slot = graph.initializers[name.replace("_quantized", "_scale")]
        assert slot.const_value is not None
        slot.const_value = ir.tensor(1.01 * slot.const_value.numpy(), name=slot.name)
    else:  # another scale is read than the one that is proved
        (node,) = {usage.node for usage in value.uses()}
        proved = node.inputs[1]
        assert proved is not None
        assert proved.const_value is not None
        twice = ir.tensor(2 * proved.const_value.numpy(), name="twice")
        other = ir.Value(name="twice", const_value=twice, shape=proved.shape, type=proved.type)
        graph.register_initializer(other)
        node.replace_input_with(1, other)
    folder.mkdir()
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
    return folder / "model.onnx"


@pytest.mark.parametrize("what", ["a step", "a scale", "the scale that is read"])
def test_int8_weights_that_are_not_the_certified_ones(
    stored: Path, tmp_path: Path, what: str
) -> None:
    path = planted(stored, tmp_path / "e", what)
    with pytest.raises(Inconclusive, match="differs from the weights it should hold"):
        verify_identity(path, tiny_unet().state_dict())


def test_int8_weights_of_other_models(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(Inconclusive, match="differs from the weights it should hold"):
        verify_identity(stored / "model.onnx", tiny_unet(seed=3).state_dict())
    with pytest.raises(UsageError, match="parameter names differ"):
        verify_identity(stored / "model.onnx", tiny_unet(xl=True).state_dict())
    with pytest.raises(UsageError, match="scales belong to its weights"):
        swap_weights(stored, tmp_path / "x", tiny_unet(seed=3).state_dict(), metadata={})


def test_int8_weights_go_through_parity_and_the_gate(tmp_path: Path, here: Ran) -> None:
    out = tmp_path / "out"
    done = here(
        "export", release(), "--onnx", "--full", "--precision", "int8-weights", "--out", out
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: int8-weights, opset 18, weights identical")
    manifest = read_manifest(out)
    assert manifest is not None
    engine = manifest["engines"][0]
    assert (engine["parity"]["passed"], engine["gate"]) == (True, None)
    assert engine["parity"]["precision"] == engine["delta"]["precision"] == "int8-weights"
    assert establish(out).engine == "torch"  # until it is gated
    reason = "a trial without users"
    assert establish(out, engine="onnx", accept_unverified=reason).engine == "onnx"
    other = copy_of(out, tmp_path / "other")
    quantize_weights(tiny_engine_of(tmp_path, 7), tmp_path / "q", {})
    for name in ("model.onnx", "model.onnx.data"):
        (other / "unet" / name).write_bytes((tmp_path / "q" / name).read_bytes())
    recertified(other)
    with pytest.raises(UsageError, match="does not hold the weights that the certificate speaks"):
        establish(other, engine="onnx", accept_unverified=reason)


def tiny_engine_of(folder: Path, seed: int) -> Path:
    swap_weights(
        tiny_engine(), folder / "other-engine", tiny_unet(seed=seed).state_dict(), metadata={}
    )
    return folder / "other-engine"


def test_what_rounding_leaves_of_an_edit() -> None:
    base, safe = tiny_unet(seed=7).state_dict(), tiny_unet().state_dict()
    found = measure_survival(base, safe, "int8-weights")
    assert 0.99 < found.min_cosine < 1
    tiny = {k: w + 1e-7 * torch.randn(w.shape) for k, w in base.items()}
    assert not measure_survival(base, tiny, "int8-weights").survives
