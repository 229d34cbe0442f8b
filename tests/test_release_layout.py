"""Releases load, hold what was verified, and take nobody else's place."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from release_examples import make_evidence
from safetensors import safe_open
from tiny import tiny_backbone, tiny_engine, tiny_unet
from transformers import CLIPTokenizer

from safediff.errors import Inconclusive, UsageError
from safediff.export.runtime import ExportedUNet
from safediff.models.backbone import Backbone
from safediff.models.patch import state_sha256, unet_sha256
from safediff.models.stable_diffusion import StableDiffusion
from safediff.release import layout
from safediff.release.checksums import verify_checksums
from safediff.release.layout import write_release


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def release(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    journal = folder / "j"
    journal.write_text("{}\n")
    write_release(
        folder / "release",
        backbone,
        make_evidence(),
        engine=tiny_engine(),
        extra_files={"evidence/journal.jsonl": journal},
    )
    return folder / "release"


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_files(release: Path) -> None:
    assert files_in(release) == {
        "README.md",
        "SHA256SUMS",
        "bom.cdx.json",
        "gate.intoto.json",
        "evidence/journal.jsonl",
        "model_index.json",
        "safety-certificate.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/model.onnx",
        "unet/model.onnx.data",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    verify_checksums(release)


def test_diffusers_loads_it_with_the_verified_weights(release: Path, backbone: Backbone) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(release)
    assert unet_sha256(pipeline.unet) == unet_sha256(backbone.denoiser)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    assert pipeline("a hammer", num_inference_steps=2, generator=generator).images[0].size == (
        16,
        16,
    )


def test_the_text_encoder_is_found_by_older_libraries(release: Path, backbone: Backbone) -> None:
    with safe_open(release / "text_encoder" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names
    assert all(name.startswith("text_model.") for name in names)
    pipeline = StableDiffusionPipeline.from_pretrained(release)
    found, expected = pipeline.text_encoder.state_dict(), backbone.text_encoder.state_dict()
    assert state_sha256(found) == state_sha256(expected)


def test_the_engine_in_it_runs(release: Path, backbone: Backbone) -> None:
    engine = ExportedUNet(release / "unet", num_threads=1)
    condition = backbone.encode(["a hammer"])
    z = torch.ones(1, 4, 8, 8)
    with torch.no_grad():
        expected = backbone.denoise(z, torch.tensor(501), condition)
    found = backbone.with_denoiser(engine).denoise(z, torch.tensor(501), condition)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_tokenizer_of_older_libraries(release: Path, backbone: Backbone, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(release / "tokenizer" / name, tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a Hammer, 2").input_ids == backbone.tokenizer("a Hammer, 2").input_ids


def test_certificate_is_about_these_files(release: Path) -> None:
    certificate = json.loads((release / "safety-certificate.json").read_text())
    rows = {row["path"]: row for row in certificate["subject"]}
    assert set(rows) == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/model.onnx",
        "unet/model.onnx.data",
        "vae/diffusion_pytorch_model.safetensors",
    }
    sums = dict(
        line.split("  ")[::-1] for line in (release / "SHA256SUMS").read_text().splitlines()
    )
    for path, row in rows.items():
        assert row["sha256"] == sums[path]
        assert row["size_bytes"] == (release / path).stat().st_size
        assert row["precision"] == "fp32"
    assert rows["unet/model.onnx"]["format"] == "onnx"
    assert certificate["verdict"] == "pass"
    assert certificate["statement"] in (release / "README.md").read_text()


def test_half_precision_is_called_so(backbone: Backbone, tmp_path: Path) -> None:
    certificate = write_release(
        tmp_path / "r", backbone, make_evidence(), engine=tiny_engine(False, "fp16", 23)
    )
    precision = {row["path"]: row["precision"] for row in certificate["subject"]}
    assert precision["unet/model.onnx"] == precision["unet/model.onnx.data"] == "fp16"
    assert precision["unet/diffusion_pytorch_model.safetensors"] == "fp32"


def test_writing_is_silent_and_forgets_where_the_base_lay(
    release: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(release)
    capfd.readouterr()
    backbone = StableDiffusion.from_pipeline("tiny", pipeline)
    write_release(tmp_path / "again", backbone, make_evidence())
    assert capfd.readouterr() == ("", "")
    for name in files_in(tmp_path / "again"):
        assert str(release).encode() not in (tmp_path / "again" / name).read_bytes(), name


def test_an_engine_with_other_weights_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    other = backbone.with_denoiser(tiny_unet(seed=8))
    with pytest.raises(Inconclusive, match="differs from the weights it should hold"):
        write_release(tmp_path / "r", other, make_evidence(), engine=tiny_engine())
    assert list(tmp_path.iterdir()) == []


def test_only_releases_are_replaced(backbone: Backbone, tmp_path: Path) -> None:
    target = tmp_path / "r"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not a release"):
        write_release(target, backbone, make_evidence())
    assert files_in(tmp_path) == {"r/thesis.txt"}
    (target / "thesis.txt").unlink()
    write_release(target, backbone, make_evidence(), engine=tiny_engine())
    write_release(target, backbone, make_evidence())
    assert "unet/model.onnx" not in files_in(target)
    verify_checksums(target)


@pytest.mark.parametrize("name", ["../outside.txt", "unet/config.json"])
def test_extra_files_cannot_leave_or_replace(backbone: Backbone, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.write_text("x")
    with pytest.raises(UsageError, match="not a free place in the release"):
        write_release(tmp_path / "r", backbone, make_evidence(), extra_files={name: source})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_anybody_may_read_it(backbone: Backbone, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_release(tmp_path / "r", backbone, make_evidence(), engine=tiny_engine())
    finally:
        os.umask(before)
    for path in (tmp_path / "r", *(tmp_path / "r").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_run_that_is_killed_leaves_no_release(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layout, "write_checksums", killed)
    with pytest.raises(KeyboardInterrupt):
        write_release(tmp_path / "r", backbone, make_evidence())
    assert list(tmp_path.iterdir()) == []
