"""Exporting runs and releases: identity, swapped weights, whole folders, refusals."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from release_examples import make_evidence
from serving_examples import copy_of, exported, passed_gate, release, write_example
from tiny import tiny_backbone, tiny_engine, tiny_unet

from safediff.errors import Inconclusive, PolicyViolated, UsageError
from safediff.export.engine_files import MODEL_NAME, read_metadata
from safediff.export.identity import initializers_sha256, verify_identity
from safediff.export.manifest import read_manifest, write_manifest
from safediff.export.single_file import original_state, unet_name, write_single_file
from safediff.export.to_onnx import swap_weights
from safediff.export.to_triton import check_config, with_one_dimension
from safediff.models.patch import state_sha256, unet_sha256
from safediff.release.checksums import sha256_file, verify_checksums, write_checksums
from safediff.release.layout import write_release
from safediff.workflow.deploy import deploy_run
from safediff.workflow.engine_report import EngineReport, measure_engine
from safediff.workflow.export import export_run, swap


def test_the_certified_engine_is_taken_byte_for_byte(tmp_path: Path) -> None:
    report = export_run(release(), tmp_path / "engine", "fp32", 18)
    for name in ("model.onnx", "model.onnx.data"):
        assert sha256_file(tmp_path / "engine" / name) == sha256_file(release() / "unet" / name)
    assert report.passed
    assert report.weights_sha256 == unet_sha256(tiny_unet())
    assert report.survival is not None
    assert report.survival.min_cosine == pytest.approx(1.0)
    assert report.parity.margin_ratio is not None
    assert report.parity.margin_ratio < 1e-3


def test_int8_is_made_of_it(tmp_path: Path) -> None:
    report = export_run(release(), tmp_path / "engine", "int8", 18)
    assert report.precision == "int8"
    assert report.calibration is not None
    assert report.calibration["after"]["relative_error"]["erased"] <= 0.01
    assert 1e-3 < (report.parity.margin_ratio or 0) < 0.25
    verify_identity(tmp_path / "engine" / MODEL_NAME, tiny_unet().state_dict())


def other_release(path: Path) -> Path:
    """Another erased model of the same base."""
    evidence = make_evidence()
    stored = json.loads((release() / "safety-certificate.json").read_text())

    changed = make_evidence(
        policy=evidence.policy | {"resolved": stored["policy"]["resolved"]},
        base_model=stored["base_model"],
    )
    backbone = tiny_backbone(path.parent / "tokenizer").with_denoiser(tiny_unet(seed=11))
    write_release(path, backbone, changed)
    return path


def test_new_weights_in_an_exported_engine(tmp_path: Path) -> None:
    new = other_release(tmp_path / "new")
    report = swap(new, release(), tmp_path / "engine")
    path = tmp_path / "engine" / MODEL_NAME
    assert initializers_sha256(path) == unet_sha256(tiny_unet(seed=11)) == report.weights_sha256
    assert report.parity.passed
    with pytest.raises(Inconclusive, match="differs from the weights"):
        verify_identity(path, tiny_unet().state_dict())
    # a swapped engine can itself be swapped: it says which base it is of
    again = swap(release(), tmp_path / "engine", tmp_path / "back")
    assert again.weights_sha256 == unet_sha256(tiny_unet())


def test_a_swap_is_compared_in_brief_and_says_so(tmp_path: Path) -> None:
    report = swap(other_release(tmp_path / "new"), release(), tmp_path / "engine")
    parity = report.parity
    assert parity is not None
    assert (parity.num_samples, parity.side, parity.engine_calls) == (2, 2, 2)
    assert [row.timestep for row in parity.timesteps] == [501]
    assert parity.margin_ratio is not None
    assert "compared in brief (2 calls, latents of side 2)" in report.line
    told = report.to_json()
    assert told["swapped"] is True
    assert (told["parity"]["side"], told["parity"]["engine_calls"]) == (2, 2)
    whole = export_run(release(), tmp_path / "whole", "fp32", 18)
    assert whole.parity is not None
    assert (whole.parity.num_samples, whole.parity.side, whole.parity.engine_calls) == (4, 8, 10)
    assert "in brief" not in whole.line


def test_a_graph_that_computes_something_else_is_not_taken(tmp_path: Path) -> None:
    swap(other_release(tmp_path / "new"), release(), tmp_path / "first")
    path = tmp_path / "first" / MODEL_NAME
    graph = onnx.load(path, load_external_data=False)
    (last,) = [node for node in graph.graph.node if "out_sample" in node.output]
    last.output[list(last.output).index("out_sample")] = "before"
    factor = onnx.numpy_helper.from_array(np.array(1.01, np.float32), "factor")
    graph.graph.initializer.append(factor)
    node = onnx.helper.make_node("Mul", ["before", "factor"], ["out_sample"])
    graph.graph.node.append(node)
    onnx.save(graph, path)
    with pytest.raises(PolicyViolated, match="OUTSIDE its limits; compared in brief"):
        swap(release(), tmp_path / "first", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_engine_of_another_base_is_refused(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    made = {"base_sha256": "ab" * 32, "safe_sha256": unet_sha256(tiny_unet(seed=3))}
    swap_weights(tiny_engine(), engine, tiny_unet(seed=3).state_dict(), metadata=made)
    with pytest.raises(UsageError, match="was made from base abababababab, these weights from"):
        swap(release(), engine, tmp_path / "out")
    with pytest.raises(UsageError, match="does not say from which base"):
        swap(release(), tiny_engine(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tampered_engine_is_refused(tmp_path: Path) -> None:
    changed = copy_of(release(), tmp_path / "changed")
    data = changed / "unet" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    with pytest.raises(UsageError, match=r"unet/model\.onnx\.data differs"):
        swap(release(), changed, tmp_path / "out")
    engine = tmp_path / "engine"
    export_run(release(), tmp_path / "first", "fp32", 18)
    made = {"base_sha256": unet_sha256(tiny_unet(seed=7)), "safe_sha256": "cd" * 32}
    swap_weights(tiny_engine(), engine, tiny_unet(seed=3).state_dict(), metadata=made)
    with pytest.raises(UsageError, match="it was written with cdcdcdcdcdcd"):
        swap(release(), engine, tmp_path / "out")


def test_a_tampered_engine_in_half_precision_is_refused(tmp_path: Path) -> None:
    export_run(release(), tmp_path / "half", "fp16", 18)
    swap(other_release(tmp_path / "new"), tmp_path / "half", tmp_path / "other")
    told = {name: read_metadata(tmp_path / name / MODEL_NAME) for name in ("half", "other")}
    for name, state in (("half", tiny_unet()), ("other", tiny_unet(seed=11))):
        assert told[name]["weights_sha256"] == state_sha256(state.state_dict(), torch.float16)
    swap_weights(
        *(tmp_path / "half", tmp_path / "changed", tiny_unet(seed=3).state_dict()),
        metadata=told["half"],
    )
    with pytest.raises(
        UsageError, match=f"it was written with {told['half']['weights_sha256'][:12]}"
    ):
        swap(release(), tmp_path / "changed", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_diffusers_loads_an_export_unchanged() -> None:
    pipeline = DiffusionPipeline.from_pretrained(exported())
    assert type(pipeline) is StableDiffusionPipeline
    assert unet_sha256(pipeline.unet) == unet_sha256(tiny_unet())
    verify_checksums(exported())


def test_the_folder_is_what_optimum_looks_for() -> None:
    for part in ("unet", "text_encoder", "vae_decoder"):
        assert (exported() / part / "config.json").is_file(), part
        assert (exported() / part / "model.onnx").is_file(), part
    assert (exported() / "tokenizer" / "vocab.json").is_file()
    assert (exported() / "tokenizer" / "merges.txt").is_file()
    config = json.loads((exported() / "vae_decoder" / "config.json").read_text())
    assert config["scaling_factor"] > 0
    names = {
        part: ([v.name for v in s.get_inputs()], [v.name for v in s.get_outputs()])
        for part in ("unet", "text_encoder", "vae_decoder")
        for s in [ort.InferenceSession(str(exported() / part / "model.onnx"))]
    }
    assert names == {
        "unet": (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
        "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output"]),
        "vae_decoder": (["latent_sample"], ["sample"]),
    }


def test_text_encoder_and_decoder_compute_the_same() -> None:
    pipeline = DiffusionPipeline.from_pretrained(exported())
    ids = torch.tensor(
        pipeline.tokenizer(["an axe", "", "x"], padding="max_length", max_length=77)["input_ids"]
    )
    session = ort.InferenceSession(str(exported() / "text_encoder" / "model.onnx"))
    found = session.run(None, {"input_ids": ids.numpy()})
    with torch.no_grad():
        expected = pipeline.text_encoder(ids)
        z = torch.randn(3, 4, 6, 10, generator=torch.Generator().manual_seed(0))
        picture = pipeline.vae.decode(z, return_dict=False)[0]
    assert np.abs(found[0] - expected.last_hidden_state.numpy()).max() < 1e-5
    assert np.abs(found[1] - expected.pooler_output.numpy()).max() < 1e-5
    session = ort.InferenceSession(str(exported() / "vae_decoder" / "model.onnx"))
    decoded = session.run(None, {"latent_sample": z.numpy()})[0]
    assert np.abs(decoded - picture.numpy()).max() < 1e-5


def test_parts_are_proved_to_be_the_verified_ones(tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(exported())
    path = exported() / "text_encoder" / "model.onnx"
    state = pipeline.text_encoder.state_dict()
    verify_identity(path, state, "text_encoder.")
    key = next(iter(state))
    with pytest.raises(Inconclusive, match="differs from the weights"):
        verify_identity(path, {**state, key: state[key] + 1e-3}, "text_encoder.")


def test_the_manifest_says_what_the_certificate_covers() -> None:
    manifest = read_manifest(exported())
    assert manifest is not None
    (engine,) = manifest["engines"]
    assert engine["in_certificate"]
    assert engine["gate"] is None
    assert engine["sha256"] == sha256_file(exported() / "unet" / "model.onnx")
    assert engine["parity"]["passed"]
    assert engine["delta"]["survives"]
    (engine,) = read_manifest(exported("int8"))["engines"]  # type: ignore[index]
    assert not engine["in_certificate"]
    assert engine["precision"] == "int8"


def test_one_file_with_the_original_names() -> None:
    single = StableDiffusionPipeline.from_single_file(
        str(exported() / "model.safetensors"), config=str(exported()), local_files_only=True
    )
    pipeline = DiffusionPipeline.from_pretrained(exported())
    for part in ("unet", "vae", "text_encoder"):
        found, expected = getattr(single, part), getattr(pipeline, part)
        assert state_sha256(found.state_dict()) == state_sha256(expected.state_dict()), part


def test_other_families_have_no_such_file(tmp_path: Path) -> None:
    model = tiny_backbone(tmp_path)
    model.text_encoder.config.hidden_size = 1024
    with pytest.raises(Inconclusive, match=r"Stable Diffusion 2\.x has other names"):
        original_state(model)
    with pytest.raises(Inconclusive, match=r"class_embedding\.weight: has no name"):
        unet_name("class_embedding.weight", 1, [False, True])


def test_a_file_that_cannot_say_what_is_predicted_is_not_written(tmp_path: Path) -> None:
    model = tiny_backbone(tmp_path)
    model.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(Inconclusive, match="predicts v_prediction, which a single file can't say"):
        write_single_file(tmp_path / "model.safetensors", model)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_server_may_read_an_exported_folder(tmp_path: Path) -> None:
    """Whoever it runs as, and whatever the umask of who exports."""
    path, out = copy_of(release(), tmp_path / "r"), tmp_path / "serve"
    for folder in (path, *filter(Path.is_dir, path.rglob("*"))):
        folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        deploy_run(path, out, "fp32", 18, ("triton", "single-file"))
    finally:
        os.umask(before)
    assert (out / "model.safetensors").exists()
    for found in (out, *out.rglob("*")):
        assert found.stat().st_mode & 0o777 == (0o755 if found.is_dir() else 0o644), found


def test_what_is_slipped_into_the_releases_manifest_meanwhile_is_not_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = copy_of(exported(), tmp_path / "r"), tmp_path / "serve"
    known = read_manifest(path)
    assert known is not None
    (engine,) = known["engines"]

    def meanwhile(*given: Any, **options: Any) -> EngineReport:
        """When the release was checked and copied."""
        passed = {**engine, "path": "model.safetensors", "gate": passed_gate(engine)}
        write_manifest(path, known | {"engines": [engine, passed], "parts": []})
        return measure_engine(*given, **options)

    monkeypatch.setattr("safediff.workflow.deploy.measure_engine", meanwhile)
    deploy_run(path, out, "fp32", 18)
    manifest = read_manifest(out)
    assert manifest is not None
    assert [row["path"] for row in manifest["engines"]] == ["unet/model.onnx"]
    assert [row["part"] for row in manifest["parts"]] == ["model", "text_encoder", "vae_decoder"]


def test_the_triton_repository_describes_the_graph() -> None:
    folder = exported() / "triton" / "safediff_unet"
    message = check_config((folder / "config.pbtxt").read_text())
    assert message["name"] == folder.name
    assert message["backend"] == "onnxruntime"
    assert [(t["name"], t["data_type"], t["dims"]) for t in message["input"]] == [
        ("sample", "TYPE_FP32", [-1, 4, -1, -1]),
        ("timestep", "TYPE_FP32", [1]),
        ("encoder_hidden_states", "TYPE_FP32", [-1, 77, 16]),
    ]
    assert "reshape" not in message["input"][1]  # Triton refuses an empty one without batching
    assert message["version_policy"] == {"specific": {"versions": [1]}}
    assert (
        ort.InferenceSession(str(folder / "1" / "model.onnx")).get_outputs()[0].name
        == (message["output"][0]["name"])
    )


@pytest.mark.parametrize("xl", [False, True])
def test_a_timestep_of_one_dimension_changes_no_prediction(tmp_path: Path, xl: bool) -> None:
    engine = tiny_engine(xl)
    served = with_one_dimension(engine, tmp_path / "served")
    verify_identity(served / "model.onnx", tiny_unet(xl).state_dict())
    scalar, flat = (ort.InferenceSession(str(f / "model.onnx")) for f in (engine, served))
    shapes = {
        i.name: [d if isinstance(d, int) else 8 for d in i.shape] for i in scalar.get_inputs()
    }
    assert {i.name: i.shape for i in flat.get_inputs()} == {
        i.name: i.shape or [1] for i in scalar.get_inputs()
    }
    random = np.random.default_rng(0)
    feeds = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    feeds["timestep"] = np.array(500.0, np.float32)
    (expected,) = scalar.run(None, feeds)
    (found,) = flat.run(None, feeds | {"timestep": feeds["timestep"].reshape(1)})
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TYPE_FP32", "TYPE_FLOAT", "expected enum, found 'TYPE_FLOAT'"),
        ("max_batch_size: 0", "max_batch: 0", "unknown field 'max_batch'"),
        ("max_batch_size: 0", 'max_batch_size: "0"', "expected int"),
        ("output [", "output {", "unknown field|expected"),
        ('name: "safediff_unet"', "", "name is missing"),
        ("]\n", "", "a list does not end|unknown field|expected"),
        ("dims: [ 1 ]", "dims: [ 1 ] reshape { shape: [ ] }", "unknown field 'reshape'"),
        ("dims: [ 1 ]", "dims: [ ]", "timestep has no dims"),
    ],
)
def test_a_wrong_configuration_is_seen(old: str, new: str, message: str) -> None:
    text = (exported() / "triton" / "safediff_unet" / "config.pbtxt").read_text()
    assert old in text
    with pytest.raises(Inconclusive, match=message):
        check_config(text.replace(old, new))


def test_a_run_without_release_has_no_certificate_to_go_with(tmp_path: Path) -> None:
    undecided = write_example(tmp_path / "undecided", passed=False)
    deploy_run(undecided, tmp_path / "out", "fp32", 18)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    stored = json.loads((tmp_path / "out" / "safety-certificate.json").read_text())
    assert stored["verdict"] == "inconclusive"


def test_a_tampered_release_is_not_exported(tmp_path: Path) -> None:
    changed = copy_of(release(), tmp_path / "changed")
    (changed / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(UsageError, match="does not match its SHA256SUMS"):
        export_run(changed, tmp_path / "engine", "fp32", 18)
    write_checksums(changed)
    assert not (tmp_path / "engine").exists()


def test_only_exports_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not an exported release"):
        deploy_run(release(), target, "fp32", 18)
    with pytest.raises(UsageError, match="is the release that is read"):
        deploy_run(release(), release(), "fp32", 18)
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]


def test_nothing_is_written_into_the_release(tmp_path: Path) -> None:
    read = copy_of(release(), tmp_path / "r")
    (tmp_path / "link").symlink_to(read)
    with pytest.raises(UsageError, match="lies in the release"):
        deploy_run(read, tmp_path / "link" / "serve", "fp32", 18)
    with pytest.raises(UsageError, match="lies in the release"):
        export_run(read, read / "engine", "fp32", 18)
    verify_checksums(read)


def test_a_release_that_is_changed_after_its_check_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, changed = copy_of(release(), tmp_path / "r"), "scheduler/scheduler_config.json"
    monkeypatch.setattr(
        "safediff.workflow.deploy.require_unet",
        lambda *given: (read / changed).write_text("{}"),
    )
    with pytest.raises(UsageError, match=f"{changed} was changed between its check"):
        deploy_run(read, tmp_path / "serve", "fp32", 18)
    assert not (tmp_path / "serve").exists()


def test_a_folder_that_is_nothing_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run nor a release"):
        export_run(tmp_path, tmp_path / "engine", "fp32", 18)
