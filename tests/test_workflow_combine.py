"""Combining patches: the sum, the order, whose patches, and a release with every verdict."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from erase_examples import frozen_backbone
from gate_examples import make_report, make_result
from small_policy import QUICK, finished, safediff, small_plan, write_policy
from test_cli_verbs import Ran, here

from safediff.errors import Inconclusive, UsageError
from safediff.gate.verdict import Verdict
from safediff.guard.load import make_guard
from safediff.models.backbone import Backbone
from safediff.models.patch import (
    Patch,
    apply_patch,
    load_patch,
    merge_patches,
    save_patch,
    stack_patches,
    unet_sha256,
)
from safediff.policy.plan import ModelPlan
from safediff.release.audit import audit
from safediff.release.checksums import sha256_file, write_checksums
from safediff.workflow import evidence, subject
from safediff.workflow.combine import (
    Combination,
    Gate,
    Part,
    _write_summary,
    check_parts,
    combine,
    open_part,
)
from safediff.workflow.evidence import cost_of
from safediff.workflow.run_folder import RunFolder
from safediff.workflow.subject import open_subject
from safediff.workflow.ui import SilentUi

__all__ = ["here"]

OTHER = (("name: small", "name: other"),)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return frozen_backbone(tmp_path_factory.mktemp("tiny"))


def some_patch(backbone: Backbone, names: slice, seed: int) -> Patch:
    state = backbone.denoiser.state_dict()
    g = torch.Generator().manual_seed(seed)
    chosen = [*state][names]
    return Patch(
        tensors={n: state[n] + 0.01 * torch.randn(state[n].shape, generator=g) for n in chosen},
        base_sha256=unet_sha256(backbone.denoiser),
    )


def test_differences_add_up(backbone: Backbone) -> None:
    base = {n: w.clone() for n, w in backbone.denoiser.state_dict().items()}
    a, b = some_patch(backbone, slice(0, 20), 1), some_patch(backbone, slice(10, 30), 2)
    merged = merge_patches(backbone.denoiser, [a, b])
    assert merged.base_sha256 == a.base_sha256
    assert [*merged.tensors] == [*base][:30]
    for name, found in merged.tensors.items():
        change = sum(p.tensors[name] - base[name] for p in (a, b) if name in p.tensors)
        torch.testing.assert_close(found, base[name] + change, atol=1e-6, rtol=0)
    only = merge_patches(backbone.denoiser, [a])
    assert all(torch.equal(only.tensors[n], w) for n, w in a.tensors.items())
    back = merge_patches(backbone.denoiser, [b, a])
    for name, found in merged.tensors.items():
        torch.testing.assert_close(back.tensors[name], found, atol=1e-7, rtol=0)
    remove = apply_patch(backbone.denoiser, merged)
    remove()
    assert unet_sha256(backbone.denoiser) == a.base_sha256


def test_a_patch_of_another_base_is_not_merged(backbone: Backbone) -> None:
    a = some_patch(backbone, slice(0, 2), 1)
    strange = Patch(tensors=a.tensors, base_sha256="0" * 64)
    with pytest.raises(UsageError, match="the patch belongs to base 000000000000"):
        merge_patches(backbone.denoiser, [a, strange])
    unknown = Patch(tensors={"nothing": torch.zeros(1)}, base_sha256=a.base_sha256)
    with pytest.raises(UsageError, match="names 'nothing', which this UNet lacks"):
        merge_patches(backbone.denoiser, [a, unknown])


def test_the_second_patch_lies_over_the_first(backbone: Backbone) -> None:
    a, b = some_patch(backbone, slice(0, 20), 1), some_patch(backbone, slice(10, 30), 2)
    stacked = stack_patches(a, b)
    assert stacked.base_sha256 == a.base_sha256
    assert stacked.tensors.keys() == a.tensors.keys() | b.tensors.keys()
    for name, tensor in stacked.tensors.items():
        assert torch.equal(tensor, b.tensors[name] if name in b.tensors else a.tensors[name])


def half_edited(folder: Path, *edits: tuple[str, str]) -> Path:
    """A run of another policy, which has a patch and no verdict yet: half the first one's edit."""
    plan = small_plan(folder, *OTHER, *edits)
    run = folder / "run"
    run.mkdir()
    text = json.dumps({"sha256": plan.sha256, "plan": plan.to_json()})
    (run / "plan.json").write_text(text)
    (run / "training.json").write_text('{"passes": 10, "seconds": "1.5", "resumed": "false"}')
    first = load_patch(finished().run.path / "patch.safetensors")
    base = open_subject("embedded").models["embedded"].denoiser.state_dict()
    halved = {n: base[n] + 0.5 * (w - base[n]) for n, w in first.tensors.items()}
    save_patch(Patch(tensors=halved, base_sha256=first.base_sha256), run / "patch.safetensors")
    return run


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return half_edited(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def merged(other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("merged") / "out"
    done = safediff("combine", finished().run.path, other, "--out", out, "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_every_policys_gate_is_run_on_the_sum(merged: tuple[Path, str], other: Path) -> None:
    out, said = merged
    parents = [finished().run.path, other]
    stored = load_patch(out / "patch.safetensors")
    listed = json.loads(stored.metadata["parents"])
    assert [p["patch_sha256"] for p in listed] == [
        sha256_file(run / "patch.safetensors") for run in parents
    ]
    data = json.loads((out / "combination.json").read_text())
    assert data["how"] == "merged"
    assert [p["policy"] for p in data["policies"]] == ["small", "other"]
    for policy in data["policies"]:
        assert policy["verdict"] == "pass"
        verdict = json.loads(
            (out / "gates" / policy["policy"] / "verdict.combined.json").read_text()
        )
        rows = {row["id"]: row for row in verdict["results"]}
        for name, check in policy["checks"].items():
            assert check["combined"]["estimate"] == rows[name]["estimate"]
            assert check["combined"]["n"] == rows[name]["num_samples"]
    alone = json.loads((finished().run.path / "verdict.teacher.json").read_text())
    (row,) = [r for r in alone["results"] if r["id"] == "erasure/all"]
    assert data["policies"][0]["checks"]["erasure/all"]["alone"]["estimate"] == row["estimate"]
    assert data["policies"][1]["checks"]["erasure/all"]["alone"] is None
    assert "this merged combination was verified, and no other" in said
    names = [*open_subject(str(out)).models]
    assert names == ["base", "combined"]


def test_the_release_carries_a_certificate_of_each(merged: tuple[Path, str]) -> None:
    release = merged[0] / "release"
    first = release / "safety-certificate.json"
    second = release / "policies" / "other" / "safety-certificate.json"
    for path, name in ((first, "small"), (second, "other")):
        stored = json.loads(path.read_text())
        assert stored["policy"]["name"] == name
        assert stored["verdict"] == "pass"
        parents = stored["modification"]["settings"]["parents"]
        assert [p["policy"] for p in parents] == ["small", "other"]
        done = safediff("verify", "--certificate", path, release)
        assert done.returncode == 0, done.stdout + done.stderr
    done = safediff("verify", "--certificate", first, release)
    assert "policies/other/safety-certificate.json: check each" in done.stdout.replace("\n", " ")


def without_engine(out: Path, run: Path, folder: Path) -> Part:
    """A run whose policy asks for no engine; its pictures on the combination are there already."""
    shutil.copytree(run, folder)
    stored = json.loads((folder / "plan.json").read_text())
    stored["plan"]["export"]["targets"] = []
    (folder / "plan.json").write_text(json.dumps(stored))
    part, before = open_part(folder), open_part(run).plan.sha256
    journal = out / "gates" / part.plan.name / "journal.jsonl"
    lines = [row for row in journal.read_text().splitlines(True) if "onnx engine" not in row]
    journal.write_text("".join(lines).replace(before, part.plan.sha256))
    return part


def test_weights_alone_are_released_too(
    merged: tuple[Path, str], other: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(merged[0] / "gates", out / "gates")
    runs = {"small": finished().run.path, "other": other}
    parts = [without_engine(out, run, tmp_path / name) for name, run in runs.items()]
    found = combine(parts, None, out, SilentUi())
    assert found.released
    release = out / "release"
    assert not (release / "unet" / "model.onnx").exists()
    for name in ("safety-certificate.json", "policies/other/safety-certificate.json"):
        checked = audit(release / name, release, None, datetime.now(UTC))
        assert (checked.problems, checked.verdict) == ((), Verdict.PASS)
        assert checked.certificate["deployment_parity"] == []


def test_a_combination_is_opened_as_it_was_verified(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(tmp_path, ("verify:", "guard: {name: neg, texts: [cannon]}\nverify:"))
    model = replace(
        plan.model, scheduler="euler", config="folder", lora="a.safetensors", lora_scale=0.5
    )
    part = Part(plan=replace(plan, model=model), run=RunFolder(tmp_path))
    patch = some_patch(backbone, slice(0, 2), 1)
    save_patch(patch, tmp_path / "patch.safetensors")
    report = make_report((make_result("erasure/all", Verdict.PASS),))
    gates = [Gate(part=part, reports=[report])]
    _write_summary(Combination(folder=tmp_path, how="merged", gates=gates), patch)
    loaded: list[ModelPlan] = []

    def load(wanted: ModelPlan) -> Backbone:
        loaded.append(wanted)
        return backbone

    monkeypatch.setattr(subject, "load_backbone", load)
    assert open_subject(str(tmp_path)).guard == make_guard("neg", ["cannon"])
    assert loaded == [model]
    stored = json.loads((tmp_path / "combination.json").read_text()) | {"schema_version": 1}
    (tmp_path / "combination.json").write_text(json.dumps(stored))
    with pytest.raises(Inconclusive, match="left out scheduler, LoRA and guard"):
        open_subject(str(tmp_path))


def test_hours_are_those_of_every_process(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [
        {"seconds": "5400.0", "process_seconds": "9000.0", "processes": 2},  # one, then two
        {"seconds": "3600.0", "processes": 4},  # as earlier versions wrote it
        {"seconds": "1800.0"},
    ]
    runs = [RunFolder(tmp_path / str(number)) for number in range(len(rows))]
    for run, row in zip(runs, rows, strict=True):
        run.path.mkdir()
        (run.path / "training.json").write_text(json.dumps(row | {"passes": 10}))
    found = cost_of(runs, backbone)
    assert (found["seconds"], found["gpu_hours"]) == (10800, 0)  # on a CPU
    assert found["unet_sample_passes"] == 30
    weight = SimpleNamespace(device=torch.device("cuda"))
    gpu = SimpleNamespace(parameters=lambda: iter([weight]))
    monkeypatch.setattr(evidence, "flop_estimate", lambda base, passes: {})
    found = cost_of(runs, SimpleNamespace(text_encoder=gpu))  # type: ignore[arg-type]
    assert found["gpu_hours"] == 2.5 + 4 + 0.5


def test_a_changed_second_certificate_is_noticed(merged: tuple[Path, str], tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(merged[0] / "release", release)
    path = release / "policies" / "other" / "safety-certificate.json"
    stored = json.loads(path.read_text())
    (row,) = [
        c for c in stored["checks"] if c["id"] == "erasure/all" and c["subject"] == "combined"
    ]
    row["estimate"] = 0.0 if row["estimate"] else 0.25
    path.write_text(json.dumps(stored))
    done = safediff("verify", "--certificate", path, release, "-q")
    assert done.returncode == 3
    assert "differs" in done.stdout + done.stderr
    write_checksums(release)
    done = safediff("verify", "--certificate", path, release, "-q")
    assert done.returncode == 3


def test_it_goes_on_and_refuses_another(merged: tuple[Path, str], other: Path, here: Ran) -> None:
    out, said = merged
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    done = safediff("combine", finished().run.path, other, "--out", out, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout == said
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.png")} == before
    done = here("combine", other, finished().run.path, "--out", out, "-q")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {out}: holds another combination")


def test_a_policy_is_erased_on_top(tmp_path: Path) -> None:
    parent = half_edited(tmp_path / "first", *QUICK)
    policy = write_policy(tmp_path, *QUICK, ("num_steps: 8, l", "num_steps: 2, l"))
    out = tmp_path / "out"
    done = safediff("combine", parent, "--then", policy, "--out", out, "-q")
    assert done.returncode in (1, 3), done.stderr
    first = load_patch(parent / "patch.safetensors")
    over = load_patch(out / "then" / "patch.safetensors")
    stored = load_patch(out / "patch.safetensors")
    models = open_subject("embedded").models
    unet = models["embedded"].denoiser
    assert stored.base_sha256 == unet_sha256(unet) == first.base_sha256
    apply_patch(unet, first)
    assert over.base_sha256 == unet_sha256(unet)  # trained on the first one's model
    apply_patch(unet, over)
    expected = unet_sha256(unet)
    *_, combined = open_subject(str(out)).models.values()
    assert unet_sha256(combined.denoiser) == expected
    assert json.loads((out / "combination.json").read_text())["how"] == "sequential"


Copy = Callable[[str, str], Path]


@pytest.fixture
def changed(other: Path, tmp_path: Path) -> Copy:
    def copy(old: str, new: str) -> Path:
        shutil.copytree(other, tmp_path / "changed")
        plan = tmp_path / "changed" / "plan.json"
        text = plan.read_text()
        assert old in text
        plan.write_text(text.replace(old, new))
        return tmp_path / "changed"

    return copy


def test_what_cannot_be_combined(tmp_path: Path, other: Path, changed: Copy) -> None:
    own = open_part(finished().run.path)
    with pytest.raises(UsageError, match="one policy is no combination"):
        check_parts([own], None)
    with pytest.raises(UsageError, match="two runs are of policy 'small'"):
        check_parts([own, own], None)
    with pytest.raises(UsageError, match="is no run with a patch"):
        open_part(tmp_path)
    strange = open_part(changed('"precision": "fp32"', '"precision": "fp16"'))
    with pytest.raises(UsageError, match="policies small and other differ in export"):
        check_parts([own, strange], None)
    check_parts([own, open_part(other)], None)
