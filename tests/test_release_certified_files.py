"""What a release is opened with: the files that its certificate speaks of, and no others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from audit_examples import flip_a_byte, shard_beside
from safetensors.torch import save_file
from serving_examples import copy_of, exported, release
from tiny import tiny_unet

from safediff.errors import UsageError
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.release.certified_files import uncertified_weights
from safediff.release.checksums import write_checksums
from safediff.release.weights import UNET_PATH
from safediff.serve.trust import establish
from safediff.workflow.export_source import open_source
from safediff.workflow.subject import open_subject

MORE = "holds weights that the certificate does not speak of"


def half_beside(path: Path) -> None:
    """A variant that is loaded where it is asked for."""
    state = tiny_unet(seed=3).half().state_dict()
    save_file(state, path / "unet" / "diffusion_pytorch_model.fp16.safetensors")


def other_graph(path: Path) -> None:
    flip_a_byte(path / "unet" / "model.onnx.data")


def other_single_file(path: Path) -> None:
    """Where none was exported."""
    save_file(tiny_unet(seed=3).state_dict(), path / "model.safetensors")


FORGED: list[tuple[Callable[[Path], None], str]] = [
    (shard_beside, MORE),
    (other_single_file, rf"model\.safetensors {MORE}"),
    (half_beside, rf"unet/diffusion_pytorch_model\.fp16\.safetensors {MORE}"),
    (lambda path: flip_a_byte(path / UNET_PATH), f"{UNET_PATH} differs from the certificate"),
    (other_graph, r"unet/model\.onnx\.data differs from the certificate"),
]


@pytest.mark.parametrize(("forge", "message"), FORGED)
def test_renewed_checksums_do_not_hide_other_weights(
    tmp_path: Path, forge: Callable[[Path], None], message: str
) -> None:
    path = copy_of(release(), tmp_path / "r")
    forge(path)
    write_checksums(path)
    for opened in (lambda: open_subject(str(path)), lambda: open_source(path)):
        with pytest.raises(UsageError, match=message):
            opened()


@pytest.mark.parametrize(
    ("name", "renew", "message"),
    [
        ("scheduler/scheduler_config.json", False, "does not match its SHA256SUMS: scheduler/"),
        (UNET_PATH, True, f"{UNET_PATH} differs from the certificate"),
    ],
)
def test_a_damaged_release_of_a_run_gets_no_fresh_checksums(
    tmp_path: Path, name: str, renew: bool, message: str
) -> None:
    run = tmp_path / "run"
    copy_of(release(), run / "release")
    (run / "plan.json").write_text("{}")
    flip_a_byte(run / "release" / name)
    if renew:
        write_checksums(run / "release")
    with pytest.raises(UsageError, match=message):
        open_source(run)


def test_diffusers_prefers_an_index_to_the_certified_file(tmp_path: Path) -> None:
    path = copy_of(release(), tmp_path / "r")
    certified = unet_sha256(load_backbone(ModelPlan(base=str(path))).denoiser)
    shard_beside(path)
    assert unet_sha256(load_backbone(ModelPlan(base=str(path))).denoiser) != certified


def test_a_single_file_is_the_one_that_was_exported(tmp_path: Path) -> None:
    path = copy_of(exported(), tmp_path / "r")
    assert open_subject(str(path)).engine
    flip_a_byte(path / "model.safetensors")
    write_checksums(path)
    with pytest.raises(UsageError, match=rf"model\.safetensors {MORE}"):
        open_subject(str(path))
    with pytest.raises(UsageError, match=r"model\.safetensors is not the file that the certifi"):
        establish(path)


def test_exported_folders_are_opened_with_what_was_added() -> None:
    for precision in ("fp32", "fp16"):  # the second in the place of the certified graph
        assert open_subject(str(exported(precision))).engine == exported(precision) / "unet"


@pytest.mark.parametrize(
    ("name", "is_weights"),
    [
        ("vae/diffusion_pytorch_model.bin", True),
        ("unet/diffusion_pytorch_model.safetensors.index.json", True),
        ("unet/diffusion_pytorch_model.safetensors.index.fp16.json", True),
        ("unet/config.json", False),
        ("model.safetensors", True),  # of the whole model, which front ends load
        ("model_index.json", False),
        ("bom.cdx.json", False),
    ],
)
def test_where_loaders_look_for_weights(name: str, is_weights: bool) -> None:
    found = list(uncertified_weights({"subject": []}, {name: "00" * 32}))
    assert found == ([f"{name} {MORE}"] if is_weights else [])
