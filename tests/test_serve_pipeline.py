"""Releases are checked before they are opened; engines draw what PyTorch draws."""

import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from gate_examples import make_report, make_result
from PIL import Image
from release_examples import make_evidence, new_keys, waived_attack
from safetensors.torch import load_file, save_file
from serving_examples import copy_of, exported, passed_gate, recertified, release, write_example
from tiny import tiny_backbone, tiny_engine, tiny_unet

from safediff.errors import Inconclusive, UsageError
from safediff.export.manifest import read_manifest, write_manifest
from safediff.export.runtime import SafePipeline
from safediff.export.to_onnx import swap_weights
from safediff.gate.verdict import Verdict
from safediff.guard.load import make_guard
from safediff.release.checksums import SUMS_NAME, sha256_file, write_checksums
from safediff.release.signing import sign_release
from safediff.sample.sampler import Draw, Sampling, sample
from safediff.serve.pipeline import Order, Settings
from safediff.serve.trust import Trust, establish
from safediff.workflow.deploy import deploy_run

FEW = Settings(num_steps=3, guidance_scale=4.0)
PROMPTS = ["an owl", "a rose", "an axe"]
REASON = "an internal trial without users"


def arrays(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


@pytest.fixture(scope="module")
def pipeline() -> SafePipeline:
    return SafePipeline.from_release(exported(), num_threads=1, max_batch=2)


def test_a_compiled_release_draws_what_pytorch_draws(
    pipeline: SafePipeline, tmp_path: Path
) -> None:
    sampling = Sampling(num_steps=3, guidance_scale=4.0, seed=5)
    draws = [Draw(prompt, index) for prompt in PROMPTS for index in range(2)]
    batches = sample(tiny_backbone(tmp_path), draws, sampling)
    expected = torch.stack([p.image for batch in batches for p in batch]).permute(0, 2, 3, 1)
    found = arrays(pipeline(PROMPTS, seed=5, num_images=2, settings=FEW))
    assert np.abs(found - expected.numpy().astype(int)).max() <= 1
    other = arrays(pipeline(PROMPTS, seed=6, num_images=2, settings=FEW))
    assert np.abs(other - found).max() > 10
    assert type(pipeline.backbone.vae).__name__ == "ExportedDecoder"


def test_torch_weights_of_it_draw_the_same(pipeline: SafePipeline) -> None:
    plain = SafePipeline.from_release(exported(), engine="torch")
    assert plain.trust.engine == "torch"
    difference = arrays(plain(PROMPTS, settings=FEW)) - arrays(pipeline(PROMPTS, settings=FEW))
    assert np.abs(difference).max() <= 1


def test_pictures_come_batch_by_batch(pipeline: SafePipeline) -> None:
    drawn: list[int] = []
    original = pipeline.draw

    def counted(orders: Any, settings: Settings) -> torch.Tensor:
        drawn.append(len(orders))
        return original(orders, settings)

    pipeline.draw = counted  # type: ignore[method-assign]
    try:
        stream = pipeline.stream([Order(p, i) for i, p in enumerate(PROMPTS)], FEW)
        first = next(stream)
        assert drawn == [2]  # the third is not drawn before the first is taken
        rest = list(stream)
    finally:
        del pipeline.draw  # type: ignore[method-assign]
    assert drawn == [2, 1]
    alone = [pipeline([p], seed=i, settings=FEW)[0] for i, p in enumerate(PROMPTS)]
    assert np.abs(arrays([first, *rest]) - arrays(alone)).max() <= 1


def test_defaults_are_those_of_the_verification(tmp_path: Path) -> None:
    sampling = {"num_steps": 7, "guidance_scale": 3.5}
    path = write_example(tmp_path / "r", verify={"sampling": sampling})
    assert SafePipeline.from_release(path).defaults == Settings(7, 3.5)


def test_the_guard_of_the_policy_stands_before_the_engine(
    pipeline: SafePipeline, tmp_path: Path
) -> None:
    path = write_example(tmp_path / "r", guard={"name": "sld-max", "texts": ["axe"]})
    guarded = SafePipeline.from_release(path)
    assert guarded.guard is not None
    assert guarded.guard.name == "sld-max"
    backbone = tiny_backbone(tmp_path / "t")
    sampling = Sampling(num_steps=3, guidance_scale=4.0)
    drawn = sample(backbone, [Draw("an axe")], sampling, guard=make_guard("sld-max", ["axe"]))
    expected = next(drawn)[0].image.permute(1, 2, 0).numpy().astype(int)
    found = arrays(guarded("an axe", settings=FEW))[0]
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - arrays(pipeline("an axe", settings=FEW))[0]).max() > 1


@pytest.mark.parametrize("name", ["neg", "sld-strong", "sega-max"])
def test_any_guard_works_on_an_engine_with_a_reason(name: str, tmp_path: Path) -> None:
    guard = make_guard(name, ["axe"])
    with pytest.raises(UsageError, match="was verified with no guard, not with"):
        SafePipeline.from_release(exported(), guard=guard)
    served = SafePipeline.from_release(exported(), guard=guard, accept_unverified=REASON)
    many = Settings(num_steps=8, guidance_scale=4.0)
    sampling = Sampling(num_steps=8, guidance_scale=4.0)
    drawn = next(sample(tiny_backbone(tmp_path), [Draw("an axe")], sampling, guard=guard))
    expected = drawn[0].image.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(arrays(served("an axe", settings=many))[0] - expected).max() <= 1


def test_what_the_content_rules_refuse_is_not_drawn(pipeline: SafePipeline) -> None:
    for prompts in (["a toddler with a balloon"], ["an owl", "a toddler with a balloon"]):
        with pytest.raises(UsageError, match="prompt: 'toddler' can denote a minor") as caught:
            pipeline(prompts, settings=FEW)
        assert "balloon" not in str(caught.value)
        orders = [Order(prompt) for prompt in prompts]
        with pytest.raises(UsageError, match="texts about minors are refused"):
            pipeline.draw(orders, FEW)


def test_an_absent_provider_is_not_replaced() -> None:
    with pytest.raises(UsageError, match="CUDAExecutionProvider is not available here"):
        SafePipeline.from_release(exported(), provider="CUDAExecutionProvider")


def test_the_gpu_draws_where_one_is(
    pipeline: SafePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline.drawn_by == "unet onnx on CPUExecutionProvider"
    monkeypatch.setattr("safediff.serve.pipeline.drawing_provider", lambda: "CUDAExecutionProvider")
    with pytest.raises(UsageError, match="CUDAExecutionProvider is not available here"):
        SafePipeline.from_release(exported())
    chosen = SafePipeline.from_release(exported(), provider="CPUExecutionProvider")
    assert chosen.drawn_by == "unet onnx on CPUExecutionProvider"
    torch_weights = SafePipeline.from_release(exported(), engine="torch")
    assert torch_weights.drawn_by == "unet torch on cpu"


def test_the_denoiser_alone_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safediff.export.providers.Execution.options", lambda self, path: {})
    recorded = SafePipeline.from_release(exported(), num_threads=1, cuda_graph=True)
    assert recorded.drawn_by == "unet onnx on CPUExecutionProvider, as a CUDA graph"
    assert not recorded.backbone.vae._session.cuda_graph
    for asked in (None, False):  # its sizes are dynamic
        plain = SafePipeline.from_release(exported(), num_threads=1, cuda_graph=asked)
        assert not plain.backbone.denoiser.cuda_graph


# What is refused, each with one line.


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SafePipeline.from_release(path, **options)
    assert "\n" not in str(caught.value)


def test_options_that_would_be_ignored() -> None:
    refused(exported(), "CPUExecutionProvider: has no CUDA graphs", cuda_graph=True)
    message = "--cuda-graph needs an engine that was gated, and PyTorch's weights are served"
    refused(exported(), message, engine="torch", cuda_graph=True)
    refused(release(), "--no-spin needs an engine", engine="torch", spin=False)
    refused(
        release(), "--provider needs an engine", engine="torch", provider="CUDAExecutionProvider"
    )


def test_a_changed_byte(tmp_path: Path) -> None:
    path = copy_of(exported(), tmp_path / "r")
    data = path / "unet" / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    refused(path, r"does not match its SHA256SUMS: unet/model\.onnx\.data differs")


def test_wrong_checksums(tmp_path: Path) -> None:
    path = copy_of(release(), tmp_path / "r")
    sums = path / SUMS_NAME
    sums.write_text(sums.read_text().replace("a", "b", 1))
    refused(path, "does not match its SHA256SUMS")
    sums.unlink()
    refused(path, "no readable list of checksums")


def with_engine(path: Path, seed: int, metadata: dict[str, str]) -> Path:
    """A release whose engine was swapped by someone who also renewed the checksums."""
    copy_of(release(), path)
    engine = path.parent / "engine"
    swap_weights(tiny_engine(), engine, tiny_unet(seed=seed).state_dict(), metadata=metadata)
    for name in ("model.onnx", "model.onnx.data"):
        (path / "unet" / name).write_bytes((engine / name).read_bytes())
    write_checksums(path)
    return path


def test_a_swapped_engine(tmp_path: Path) -> None:
    path = with_engine(tmp_path / "r", 7, {})
    refused(path, r"unet/model\.onnx is not the engine that the certificate speaks of")


def test_a_swapped_engine_is_not_served_by_asking_for_it(tmp_path: Path) -> None:
    path = with_engine(tmp_path / "r", 7, {})
    refused(path, "is not the engine that the certificate speaks of", engine="onnx")


def test_an_engine_is_compared_by_its_hash_before_it_is_parsed(tmp_path: Path) -> None:
    path = copy_of(release(), tmp_path / "r")
    (path / "unet" / "model.onnx").write_bytes(b"a bomb for the parser")
    write_checksums(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx_ir.load", lambda *a, **k: pytest.fail("the graph was parsed"))
        refused(path, r"unet/model\.onnx is not the engine that the certificate speaks of")
        assert establish(release()).engine == "onnx"


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("unet/model.onnx.data", "onnx"),
        ("vae_decoder/model.onnx.data", "onnx"),
        ("unet/diffusion_pytorch_model.safetensors", "torch"),
    ],
)
def test_a_file_that_is_exchanged_after_it_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, engine: str
) -> None:
    """By one of the same size and time."""
    path, other = copy_of(exported(), tmp_path / "r"), tmp_path / "other"

    def checked(*given: Any, **options: Any) -> Trust:
        trust, times = establish(*given, **options), (path / name).stat()
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        other.write_bytes(content)
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.replace(path / name)
        return trust

    monkeypatch.setattr("safediff.serve.pipeline.establish", checked)
    refused(path, f"{name} was changed between its check and its opening", engine=engine)


def with_weights(path: Path, name: str, state: dict[str, torch.Tensor]) -> Path:
    """An export with other weights in one file, by someone who also renewed the checksums."""
    copy_of(exported(), path)
    save_file(state, path / name, metadata={"format": "pt"})
    write_checksums(path)
    return path


def changed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One weight is another."""
    name = min(n for n, tensor in tensors.items() if tensor.ndim == 2)
    return {**tensors, name: 1.5 * tensors[name]}


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_swapped_weights(tmp_path: Path, name: str, engine: str) -> None:
    path = with_weights(tmp_path / "r", name, changed(load_file(exported() / name)))
    refused(path, f"{name} is not the file that the certificate speaks of", engine=engine)


def test_weights_that_are_loaded_in_the_place_of_the_certified_ones(tmp_path: Path) -> None:
    name = "vae/diffusion_pytorch_model.safetensors.index.json"
    path = copy_of(exported(), tmp_path / "r")
    (path / name).write_text("{}")
    write_checksums(path)
    refused(path, f"{name} holds weights that the certificate does not speak of")


def test_a_certified_file_that_was_taken_away(tmp_path: Path) -> None:
    path = copy_of(exported(), tmp_path / "r")
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    write_checksums(path)
    refused(path, r"vae/diffusion_pytorch_model\.safetensors is not the file that")


def with_part(path: Path, name: str) -> Path:
    """An export whose compiled text encoder or decoder holds one other weight; sums renewed."""
    copy_of(exported(), path)
    model = ir.load(path / name / "model.onnx")
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        array = np.array(value.const_value.numpy())
        if array.ndim >= 2 and array.dtype == np.float32:
            value.const_value = ir.tensor(1.5 * array, name=value.name)
            break
    graph = path.parent / "graph"
    graph.mkdir()
    ir.save(model, graph / "model.onnx", external_data="model.onnx.data")
    for file in graph.iterdir():
        (path / name / file.name).write_bytes(file.read_bytes())
    write_checksums(path)
    return path


@pytest.mark.parametrize("name", ["text_encoder", "vae_decoder"])
def test_a_swapped_compiled_part(tmp_path: Path, name: str) -> None:
    path = with_part(tmp_path / "r", name)
    refused(path, rf"{name}/model\.onnx.* is not the file that the certificate speaks of")
    recertified(path)
    message = rf"{name}/model\.onnx does not hold the weights that the certificate speaks of"
    refused(path, message)
    refused(path, message, accept_unverified=REASON)
    assert establish(path, engine="torch").engine == "torch"  # then it is not opened


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_compiled_parts_that_no_certificate_speaks_of(tmp_path: Path, engine: str) -> None:
    """With the certified weights, in graphs that were compared with nothing."""
    path = copy_of(release(), tmp_path / "r")
    for part in ("text_encoder", "vae_decoder"):
        shutil.copytree(exported() / part, path / part, dirs_exist_ok=True)
        model = onnx.load(path / part / "model.onnx", load_external_data=False)
        model.doc_string = "another graph"
        onnx.save(model, path / part / "model.onnx")
    write_checksums(path)
    message = r"text_encoder/model\.onnx is an engine that the certificate does not speak of"
    refused(path, message, engine=engine)
    refused(path, message, engine=engine, accept_unverified=REASON)


def test_a_verdict_that_is_not_pass(tmp_path: Path) -> None:
    path = write_example(tmp_path / "r", passed=False)
    refused(path, "its certificate says inconclusive, not pass")
    refused(path, "is no reason", accept_unverified="because")
    served = SafePipeline.from_release(path, accept_unverified=REASON)
    assert served.trust.unverified == REASON
    assert served.trust.verdict == "inconclusive"


def test_a_verdict_that_was_edited(tmp_path: Path) -> None:
    path = write_example(tmp_path / "r", passed=False)
    certificate = path / "safety-certificate.json"
    certificate.write_text(certificate.read_text().replace('"inconclusive"', '"pass"'))
    refused(path, r"safety-certificate\.json differs")


LATER = make_evidence().issued_at + timedelta(days=181)
"""When the certificates of these releases have expired."""


def test_an_expired_certificate() -> None:
    with pytest.raises(UsageError, match="its certificate expired on 2027-05-23"):
        establish(release(), now=LATER)
    assert establish(release(), now=datetime(2026, 12, 1, tzinfo=UTC)).unverified == ""


def test_a_reason_is_not_recorded_where_none_was_needed() -> None:
    assert establish(release(), accept_unverified=REASON).unverified == ""


def test_no_certificate(tmp_path: Path) -> None:
    path = copy_of(release(), tmp_path / "r")
    (path / "safety-certificate.json").unlink()
    write_checksums(path)
    refused(path, "has no certificate, so nothing shows that it meets a policy")


def test_an_engine_that_was_not_gated() -> None:
    trust = establish(exported("int8"))
    assert trust.engine == "torch"
    assert "serving the PyTorch weights" in trust.remark
    refused(exported("int8"), "no gate report on it passed", engine="onnx")
    assert establish(exported("int8"), engine="onnx", accept_unverified=REASON).engine == "onnx"


def with_report(path: Path, **gate: Any) -> Path:
    """The export in int8 with a gate report in its manifest, by someone who renewed the sums."""
    if not path.exists():
        copy_of(exported("int8"), path)
    manifest = read_manifest(path)
    assert manifest is not None
    row = manifest["engines"][0]
    row["gate"] = passed_gate(row) | gate
    write_manifest(path, manifest)
    write_checksums(path)
    return path


def test_a_gate_report_that_anyone_may_have_written(tmp_path: Path) -> None:
    path = with_report(tmp_path / "r")
    trust = establish(path)
    assert trust.engine == "torch"
    assert "no checked signature covers the gate report on it; serving the Py" in trust.remark
    refused(path, "no checked signature covers the gate report on it", engine="onnx")
    trust = establish(path, accept_unverified=REASON)  # it accepts nothing that was not asked for
    assert (trust.engine, trust.unverified) == ("torch", "")
    trust = establish(path, engine="onnx", accept_unverified=REASON)
    assert (trust.engine, trust.unverified) == ("onnx", REASON)
    expired = establish(path, accept_unverified=REASON, now=LATER)
    assert (expired.engine, expired.unverified) == ("torch", REASON)
    assert expired.doubts == ("its certificate expired on 2027-05-23",)


def test_all_that_speaks_against_it_is_said(tmp_path: Path) -> None:
    path = write_example(tmp_path / "r", passed=False)
    doubts = (
        "its certificate says inconclusive, not pass",
        "its certificate expired on 2027-05-23",
    )
    with pytest.raises(UsageError, match="; ".join(doubts)):
        establish(path, now=LATER)
    assert establish(path, accept_unverified=REASON, now=LATER).doubts == doubts


@pytest.mark.parametrize(
    ("gate", "engine"),
    [
        ({}, "onnx"),
        ({"verdict": "warn"}, "onnx"),
        ({"verdict": "fail"}, "torch"),
        ({"verdict": "inconclusive"}, "torch"),
        ({"bound_to": "00" * 32}, "torch"),
        ({"policy_sha256": "00" * 32}, "torch"),
    ],
    ids=["passed", "warned", "failed", "undecided", "on other bytes", "of another policy"],
)
def test_a_signed_gate_report(tmp_path: Path, gate: dict[str, str], engine: str) -> None:
    path = with_report(tmp_path / "r", **gate)
    private, public = new_keys(tmp_path, "ours")
    sign_release(path, private)
    trust = establish(path, public_key=public)
    assert (trust.engine, trust.unverified) == (engine, "")


def test_a_gate_report_counts_as_long_as_its_waivers(tmp_path: Path) -> None:
    """Its verdict is ``warn`` for a waived check, too."""
    report = make_report((make_result("erasure/all", Verdict.PASS), waived_attack())).to_json()
    path = with_report(tmp_path / "r", verdict=report["verdict"], results=report["results"])
    private, public = new_keys(tmp_path, "ours")
    sign_release(path, private)
    trust = establish(path, public_key=public, now=datetime(2026, 12, 31, 23, tzinfo=UTC))
    assert (trust.engine, trust.expires_at) == ("onnx", datetime(2027, 1, 1, tzinfo=UTC))
    trust = establish(path, public_key=public, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert trust.engine == "torch"
    assert "and a waiver of the gate report on it expired on 2026-12-31; serving" in trust.remark
    assert trust.expires_at == LATER - timedelta(days=1)


@pytest.mark.parametrize("metadata", [{}, {"base_sha256": "ee" * 32}], ids=["", "another base"])
def test_a_gated_engine_of_other_weights(tmp_path: Path, metadata: dict[str, str]) -> None:
    path, engine = copy_of(exported("int8"), tmp_path / "r"), tmp_path / "engine"
    swap_weights(tiny_engine(), engine, tiny_unet(seed=7).state_dict(), metadata=metadata)
    for name in ("model.onnx", "model.onnx.data"):
        (path / "unet" / name).write_bytes((engine / name).read_bytes())
    shutil.rmtree(path / "triton")  # which serves the earlier engine
    manifest = read_manifest(path)
    assert manifest is not None
    for key, name in (("sha256", "model.onnx"), ("data_sha256", "model.onnx.data")):
        manifest["engines"][0][key] = sha256_file(path / "unet" / name)
    write_manifest(path, manifest)
    with_report(path)
    refused(path, r"unet/model\.onnx is not the file that the certificate speaks of")
    recertified(path)
    message = r"unet/model\.onnx does not hold the weights that the certificate speaks of"
    refused(path, message, engine="onnx", accept_unverified=REASON)


def test_a_release_without_signature(tmp_path: Path) -> None:
    refused(release(), r"has no model\.sig", public_key=tmp_path / "key.pub")


def test_a_signature_that_cannot_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of(release(), tmp_path / "r")
    (path / "model.sig").write_text("{}")
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(Inconclusive, match="signatures need the signing extra"):
        SafePipeline.from_release(path, public_key=tmp_path / "key.pub")


def test_the_signature_comes_first(tmp_path: Path) -> None:
    private, public = new_keys(tmp_path, "ours")
    path = copy_of(release(), tmp_path / "r")
    sign_release(path, private)
    assert establish(path, public_key=public).path == path
    refused(path, "does not fit files and key", public_key=new_keys(tmp_path, "theirs")[1])
    (path / "unet" / "config.json").write_text("{}")  # would be seen by the checksums
    refused(path, r"model\.sig does not fit files and key", public_key=public)


@pytest.mark.usefixtures("traced_once")
def test_half_precision_draws_nearly_the_same(pipeline: SafePipeline, tmp_path: Path) -> None:
    deploy_run(release(), tmp_path / "half", "fp16", 18)
    trust = establish(tmp_path / "half")
    assert trust.engine == "torch"  # nobody gated this engine
    half = SafePipeline.from_release(tmp_path / "half", engine="onnx", accept_unverified=REASON)
    assert half.backbone.denoiser.dtype == half.backbone.vae.dtype == torch.float16
    assert half.backbone.encode(["an owl"]).hidden.dtype == torch.float32
    difference = np.abs(
        arrays(half(PROMPTS, settings=FEW)) - arrays(pipeline(PROMPTS, settings=FEW))
    )
    assert 0 < difference.max() <= 8


def test_the_graph_is_not_opened_before_it_is_trusted(tmp_path: Path) -> None:
    path = with_engine(tmp_path / "r", 7, {})
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxruntime.InferenceSession", lambda *a, **k: opened.append(str(a)))
        with pytest.raises(UsageError):
            SafePipeline.from_release(path)
    assert opened == []
