"""Text encoders, decoder and single file of an export: proved and certified, or not written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from safetensors.torch import load_file, save_file
from serving_examples import exported, exported_of, release, release_of
from tiny import Form

from safediff.errors import Inconclusive, PolicyViolated
from safediff.export.engine_files import MODEL_NAME
from safediff.export.identity import tensor_sha256
from safediff.export.manifest import read_manifest
from safediff.export.single_file_proof import verify_single_file
from safediff.release.certificate_schema import read_certificate
from safediff.release.checksums import sha256_file
from safediff.release.weights import file_state_sha256
from safediff.workflow import deploy_parts
from safediff.workflow.deploy import SINGLE_FILE, Layout, deploy_run

CERTIFICATE = "safety-certificate.json"


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        ("sd", ["text_encoder", "vae_decoder"]),
        ("sd-v", ["text_encoder", "vae_decoder"]),
        ("sdxl", ["text_encoder", "text_encoder_2", "vae_decoder"]),
    ],
)
def test_every_part_is_compared(form: Form, parts: list[str]) -> None:
    folder = exported_of(form)
    certificate = read_certificate(folder / CERTIFICATE)
    rows = {row["part"]: row for row in certificate["engines"]}
    single = [] if form == "sd-v" else [rows.pop("model")["part"]]
    assert sorted(rows) == parts  # the UNet's engine is the release's own
    for name, row in rows.items():
        path = folder / name / MODEL_NAME
        prefix = "vae." if name == "vae_decoder" else "text_encoder."
        assert (row["path"], row["sha256"]) == (f"{name}/{MODEL_NAME}", sha256_file(path))
        assert row["weights_sha256"] == tensor_sha256(path, prefix)
        assert (row["precision"], row["gate"], row["plan"]) == ("fp32", None, None)
        parity = row["parity"]
        assert parity["passed"]
        outputs = [value.name for value in onnx.load(path, load_external_data=False).graph.output]
        assert [output["output"] for output in parity["outputs"]] == outputs
        for output in parity["outputs"]:
            assert output["max_abs"] < parity["limits"]["max_abs"]
            assert output["cosine"] > 0.99999
    assert certificate["extends"] == sha256_file(release_of(form) / CERTIFICATE)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert [row["part"] for row in manifest["parts"]] == [*parts, *single]
    assert certificate["verdict"] == "pass"


@pytest.mark.parametrize("form", ["sd", "sdxl"])
def test_a_single_file_is_proved_tensor_by_tensor(tmp_path: Path, form: Form) -> None:
    folder = exported_of(form)
    path = folder / SINGLE_FILE
    (row,) = [r for r in read_certificate(folder / CERTIFICATE)["engines"] if r["part"] == "model"]
    assert (row["path"], row["kind"], row["precision"]) == (SINGLE_FILE, "safetensors", "fp32")
    assert (row["sha256"], row["weights_sha256"]) == (sha256_file(path), file_state_sha256(path))
    verify_single_file(path, folder)
    state = load_file(path)
    name = "model.diffusion_model.out.2.bias"
    more, less = (
        state | {"lora": state[name].clone()},
        {k: v for k, v in state.items() if k != name},
    )
    for changed in (state | {name: -state[name]}, more, less):
        save_file(changed, tmp_path / "f")
        with pytest.raises(Inconclusive, match="differs from the weights it should hold"):
            verify_single_file(tmp_path / "f", folder)
    save_file({key: tensor.half() for key, tensor in state.items()}, tmp_path / "f")
    verify_single_file(tmp_path / "f", folder)
    (tmp_path / "f").write_bytes(b"no tensors")
    with pytest.raises(Inconclusive, match="cannot be compared with the weights of its folder"):
        verify_single_file(tmp_path / "f", folder)


def test_an_engine_of_another_precision_has_an_entry(tmp_path: Path) -> None:
    certificate = read_certificate(exported("int8") / CERTIFICATE)
    (row,) = [row for row in certificate["engines"] if row["part"] == "unet"]
    assert (row["precision"], row["gate"], row["parity"]["gate_rerun"]) == ("int8", None, False)
    deploy_run(exported("int8"), tmp_path / "again", "fp32", 18)
    rows = read_certificate(tmp_path / "again" / CERTIFICATE)["engines"]
    assert [row["part"] for row in rows] == ["model", "text_encoder", "unet", "vae_decoder"]
    (row,) = [row for row in rows if row["part"] == "unet"]
    assert row["precision"] == "fp32"  # its graph was traced anew


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("layouts", [(), ("triton",)], ids=["without", "with"])
def test_a_triton_repository_serves_the_engine_beside_it(
    tmp_path: Path, layouts: tuple[Layout, ...]
) -> None:
    assert (exported() / "triton" / "safediff_unet" / "1" / MODEL_NAME).exists()
    deploy_run(exported(), tmp_path / "again", "fp16", 18, layouts)
    found = [*(tmp_path / "again").glob("triton/*/1/model.onnx")]
    assert (tmp_path / "again" / "triton").exists() == bool(layouts)
    assert [sha256_file(path) for path in found] == [
        sha256_file(tmp_path / "again" / "unet" / MODEL_NAME) for _ in layouts
    ]


Export = Callable[..., Path]


def computing_otherwise(export: Export) -> Export:
    """The same weights in a graph whose last output is two per cent larger."""

    def planted(*given: Any, **named: Any) -> Path:
        path = export(*given, **named)
        model = onnx.load(path)
        output = model.graph.output[-1].name
        for node in model.graph.node:
            node.output[:] = [f"{name}_was" if name == output else name for name in node.output]
            node.input[:] = [f"{name}_was" if name == output else name for name in node.input]
        factor = helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [1.02])
        model.graph.initializer.append(factor)
        model.graph.node.append(helper.make_node("Mul", [f"{output}_was", "factor"], [output]))
        onnx.save(model, path)
        return path

    return planted


@pytest.mark.parametrize("part", ["text_encoder", "vae_decoder"])
def test_a_part_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    name = f"export_{'text_encoder' if part == 'text_encoder' else part}"
    monkeypatch.setattr(deploy_parts, name, computing_otherwise(getattr(deploy_parts, name)))
    out = tmp_path / "out"
    with pytest.raises(PolicyViolated, match=f"not written, {part}/.* differs from PyTorch by"):
        deploy_run(release(), out, "fp32", 18)
    assert not out.exists()
