"""``erase`` from start to end with the embedded model: what it leaves, what resuming keeps."""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from small_policy import (
    NUM_PICTURES,
    NUM_STEPS,
    QUICK,
    SUBJECTS,
    finished,
    safediff,
    small_plan,
    write_policy,
)

from safediff.erase.trainer import DistilTrainer
from safediff.errors import UsageError
from safediff.export.identity import initializers_sha256
from safediff.gate.journal import read_journal
from safediff.gate.recount import recount
from safediff.gate.verdict import Verdict, load_report
from safediff.models.load import load_backbone
from safediff.models.patch import apply_patch, load_patch, unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.release.checksums import verify_checksums
from safediff.verify import album
from safediff.workflow import engines
from safediff.workflow.erase import Outcome, erase
from safediff.workflow.run_folder import open_run, read_training
from safediff.workflow.ui import SilentUi

KILL_IN_TRAINING = """
import os, signal
from safediff.workflow import training
append = training.append_json
def append_and_die(path, row):
    append(path, row)
    if row["step"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
training.append_json = append_and_die
"""
KILL_WHILE_DRAWING = """
import os, signal
from safediff.verify import album
write = album.write_picture
def write_and_die(path, image):
    if len(list(path.parent.glob("*.png"))) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, image)
album.write_picture = write_and_die
"""


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return finished()


@pytest.fixture(scope="module")
def folder(outcome: Outcome) -> Path:
    return outcome.run.path


def test_the_policy_is_met_and_the_result_released(outcome: Outcome) -> None:
    assert outcome.verdict is Verdict.PASS, [r.results for r in outcome.reports]
    assert outcome.released
    assert [r.subject for r in outcome.reports] == [*SUBJECTS[1:]]
    assert [r.decides for r in outcome.reports] == [True, False, True]


def test_the_run_folder_holds_what_it_should(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("plan.json", "environment.json", "training.jsonl", "training.json"),
        *("checkpoint.safetensors", "patch.safetensors", "patch.student.safetensors"),
        *("journal.jsonl", "sessions.jsonl", "images"),
        *("engine", "release", "report.html", "report.md"),
        *("verdict.teacher.json", "verdict.student.json", "verdict.onnx-engine.json"),
    }
    assert [row["step"] for row in read_training(folder / "training.jsonl")] == [*range(NUM_STEPS)]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(subject in page for subject in SUBJECTS)
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_verdict_files_say_what_the_run_said(outcome: Outcome, folder: Path) -> None:
    for report in outcome.reports:
        assert load_report(outcome.run.verdict(report.subject)) == report
    engine = load_report(folder / "verdict.onnx-engine.json")
    assert engine.verdict is Verdict.PASS
    assert {"parity/onnx engine", "erasure/all", "retention/ordinary"} <= {
        result.id for result in engine.results
    }
    assert engine.num_images == NUM_PICTURES


def test_the_engine_holds_the_patched_weights(outcome: Outcome, folder: Path) -> None:
    base = load_backbone(ModelPlan(base="embedded"))
    apply_patch(base.denoiser, load_patch(folder / "patch.safetensors"))
    teacher, _, engine = outcome.reports
    assert teacher.model_sha256["unet"] == unet_sha256(base.denoiser)
    assert engine.model_sha256["engine"] == unet_sha256(base.denoiser)
    written = folder / "release" / "unet" / "model.onnx"
    assert initializers_sha256(written) == unet_sha256(base.denoiser)


def test_the_numbers_can_be_counted_again_from_the_journal(
    outcome: Outcome, folder: Path, tmp_path: Path
) -> None:
    tallies = recount(read_journal(folder / "journal.jsonl"), small_plan(tmp_path))
    assert {subject for subject, _ in tallies} == set(SUBJECTS)
    for report in outcome.reports:
        (row,) = [r for r in report.results if r.id == "erasure/all"]
        hits = [tallies[(report.subject, f"erasure/{name}")].hits.sum() for name in ("bomb", "axe")]
        assert row.details["hits"] == sum(hits)


def test_the_release_is_a_diffusers_model_with_the_erased_weights(folder: Path) -> None:
    release = folder / "release"
    pipeline = StableDiffusionPipeline.from_pretrained(release)
    patch = load_patch(folder / "patch.safetensors")
    state = pipeline.unet.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in patch.tensors.items())
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("owl, noto style", num_inference_steps=1).images[0]
    assert image.size == (64, 64)


def test_the_release_proves_itself(folder: Path) -> None:
    release = folder / "release"
    verify_checksums(release)
    sums = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(sums, cwd=release, check=True, capture_output=True)
    certificate = json.loads((release / "safety-certificate.json").read_text(encoding="utf-8"))
    assert certificate["verdict"] == "pass"
    assert certificate["statement"].startswith("Met policy small (sha256 ")
    assert certificate["deployment_parity"][0]["passed"]
    assert {row["subject"] for row in certificate["checks"] if row["decides"]} == {
        "teacher",
        "onnx engine",
    }
    for name in ("patch.safetensors", "journal.jsonl"):
        assert (release / name).read_bytes() == (folder / name).read_bytes()


def test_a_server_may_read_the_release(folder: Path) -> None:
    files = [path for path in (folder / "release").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_removing_the_patch_gives_the_base_back(folder: Path) -> None:
    base = load_backbone(ModelPlan(base="embedded"))
    before = {name: tensor.clone() for name, tensor in base.denoiser.state_dict().items()}
    remove = apply_patch(base.denoiser, load_patch(folder / "patch.safetensors"))
    changed = {n for n, t in base.denoiser.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == set(load_patch(folder / "patch.safetensors").tensors)
    remove()
    assert all(torch.equal(t, before[n]) for n, t in base.denoiser.state_dict().items())


def test_resuming_a_finished_run_does_nothing_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    before = _bytes(copy)
    monkeypatch.setattr(DistilTrainer, "run", _refuse)
    monkeypatch.setattr(engines, "export_denoiser", _refuse)
    drawn = _count_drawn(monkeypatch)
    plan = small_plan(tmp_path)
    again = erase(plan, open_run(plan, copy, resume=True), SilentUi())
    assert sum(drawn) == 0
    assert again.verdict is Verdict.PASS
    after = _bytes(copy)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {
        *("verdict.teacher.json", "verdict.student.json", "verdict.onnx-engine.json"),
        *("report.html", "report.md", "release/safety-certificate.json", "release/README.md"),
        *("release/bom.cdx.json", "release/SHA256SUMS"),
    }


def test_a_run_is_not_mixed_with_another(folder: Path, tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        open_run(plan, folder, resume=False)
    other = small_plan(tmp_path, ("max_rate: 0.5", "max_rate: 0.4"))
    with pytest.raises(UsageError, match="run of another plan"):
        open_run(other, folder, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a run"):
        open_run(plan, tmp_path / "mine", resume=True)


def test_pictures_of_other_weights_are_not_counted(folder: Path, tmp_path: Path) -> None:
    """A run whose patch was exchanged must not report the pictures of the earlier one."""
    copy = shutil.copytree(folder, tmp_path / "run")
    shutil.copy(copy / "patch.student.safetensors", copy / "patch.safetensors")
    plan = small_plan(tmp_path)
    with pytest.raises(UsageError, match="holds pictures of another model"):
        erase(plan, open_run(plan, copy, resume=True), SilentUi())


def test_a_killed_run_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, run = write_policy(tmp_path, *QUICK), tmp_path / "run"
    arguments = ("erase", policy, "--out", run)
    done = safediff(*arguments, code=KILL_IN_TRAINING)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (run / "patch.safetensors").exists()
    done = safediff(*arguments, "--resume", code=KILL_WHILE_DRAWING)
    assert done.returncode == -signal.SIGKILL, done.stderr
    drawn = _count_drawn(monkeypatch)
    plan = small_plan(tmp_path, *QUICK)
    outcome = erase(plan, open_run(plan, run, resume=True), SilentUi(), compare_student=False)
    assert sum(drawn) == 2 * NUM_PICTURES - 16  # the batch that was cut off is drawn again
    assert outcome.verdict is not Verdict.PASS
    for name in ("patch.safetensors", "patch.student.safetensors"):
        assert (run / name).read_bytes() == (folder / name).read_bytes()
    steps, whole = (read_training(path / "training.jsonl") for path in (run, folder))
    assert steps == whole
    assert not [path for path in run.rglob("*") if path.suffix == ".tmp"]


def _bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _refuse(*args: Any, **kwargs: Any) -> None:
    pytest.fail("done a second time")


def _count_drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    draw: Callable[..., Any] = album.sample

    def counted(backbone: Any, draws: Any, *rest: Any) -> Any:
        counts.append(len(draws))
        return draw(backbone, draws, *rest)

    monkeypatch.setattr(album, "sample", counted)
    return counts
