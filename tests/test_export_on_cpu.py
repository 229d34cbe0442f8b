"""Copies in fp32 on the CPU, and whole runs of a model that was loaded in another type."""

import json
from pathlib import Path

import pytest
import torch
from small_policy import FEWER, small_plan
from tiny import tiny_backbone, tiny_unet
from torch import nn

from safediff.export.engine_files import MODEL_NAME
from safediff.export.identity import read_precision
from safediff.export.manifest import MANIFEST_NAME
from safediff.export.on_cpu import on_cpu, references
from safediff.models.backbone import Condition
from safediff.models.patch import Patch, unet_sha256
from safediff.workflow.deploy import deploy_run
from safediff.workflow.erase import Outcome, erase
from safediff.workflow.export import export_run
from safediff.workflow.run_folder import open_run
from safediff.workflow.safe_model import patched
from safediff.workflow.ui import SilentUi


def test_what_is_there_already_is_not_copied() -> None:
    network = tiny_unet().eval()
    assert on_cpu(network, torch.float32) is network
    assert on_cpu(network.train(), torch.float32) is not network


def test_a_copy_has_the_type_and_leaves_the_original() -> None:
    network = nn.Module.to(tiny_unet(), torch.bfloat16).eval()
    copy = on_cpu(network, torch.float32)
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert copy.config == network.config
    for (name, moved), original in zip(copy.named_parameters(), network.parameters(), strict=True):
        assert torch.equal(moved, original.float()), name
        assert not moved.requires_grad


def test_references_share_what_the_models_share(tmp_path: Path) -> None:
    base = tiny_backbone(tmp_path)
    base = base.with_denoiser(nn.Module.to(base.denoiser, torch.bfloat16))
    name = next(n for n in base.denoiser.state_dict() if n.endswith("attn2.to_k.weight"))
    edited = base.denoiser.state_dict()[name] + 1
    safe = patched(base, Patch(tensors={name: edited}, base_sha256=unet_sha256(base.denoiser)))
    first, second = references(safe, base)
    ours, theirs = (m.denoiser.state_dict() for m in (first, second))
    apart = {n for n in ours if ours[n].data_ptr() != theirs[n].data_ptr()}
    assert apart == {name}
    assert torch.equal(ours[name], edited.float())


def test_a_condition_moves_with_all_its_parts() -> None:
    half = Condition(
        torch.ones(2, 3, 4, dtype=torch.bfloat16),
        {"text_embeds": torch.ones(2, 4, dtype=torch.bfloat16), "ids": torch.ones(2, 1).long()},
    )
    moved = half.to("cpu", torch.float32)
    assert moved.added is not None
    assert moved.hidden.dtype == moved.added["text_embeds"].dtype == torch.float32
    assert moved.added["ids"].dtype == torch.int64
    assert Condition(half.hidden).to("cpu", torch.float32).added is None


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run on the model in bfloat16; its engine is in fp32."""
    folder = tmp_path_factory.mktemp("half")
    plan = small_plan(folder, ("base: embedded}", "base: embedded, dtype: bfloat16}"), *FEWER)
    run = open_run(plan, folder / "run", resume=False)
    return erase(plan, run, SilentUi(), compare_student=False)


def test_a_half_precision_model_is_erased_exported_and_released(half: Outcome) -> None:
    assert half.released, [(r.id, r.verdict) for p in half.reports for r in p.results]
    engine = half.reports[-1]
    (parity,) = (r for r in engine.results if r.id == "parity/onnx engine")
    assert parity.estimate is not None
    assert 0 < parity.estimate < 1e-3  # bfloat16 itself would be a hundred times further
    certificate = json.loads((half.run.release / "safety-certificate.json").read_text())
    assert certificate["policy"]["resolved"]["model"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_it_is_exported_in_other_precisions(half: Outcome, tmp_path: Path, precision: str) -> None:
    report = export_run(half.run.path, tmp_path / "engine", precision, 18)  # type: ignore[arg-type]
    assert report.passed
    assert read_precision(tmp_path / "engine" / MODEL_NAME) == precision


def test_all_parts_are_exported(half: Outcome, tmp_path: Path) -> None:
    deploy_run(half.run.path, tmp_path / "serve", "fp32", 18)
    manifest = json.loads((tmp_path / "serve" / MANIFEST_NAME).read_text())
    assert {p["part"] for p in manifest["parts"]} >= {"text_encoder", "vae_decoder"}
