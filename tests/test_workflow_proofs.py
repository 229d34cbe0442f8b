"""What a run cannot be judged by is said before it trains or draws anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from clip_examples import write_clip
from fake_gpu import FakeGpu, on_gpu
from small_policy import small_plan
from test_judge_nudenet import write_detector
from test_workflow_many import Spoken
from tiny import tiny_backbone, tiny_pipeline

from safediff.compare.rows import choose
from safediff.errors import Inconclusive, UsageError
from safediff.models.load import load_backbone
from safediff.policy.plan import ModelPlan, Plan
from safediff.workflow.combine import Part, combine
from safediff.workflow.compare import run_contest
from safediff.workflow.erase import erase
from safediff.workflow.proofs import say_device
from safediff.workflow.run_folder import RunFolder, open_run
from safediff.workflow.ui import SilentUi
from safediff.workflow.verify import verify

EDITS = (("targets: [onnx]", "targets: []"),)


def refused(folder: Path, edit: tuple[str, str], error: type[Exception], match: str) -> RunFolder:
    plan = small_plan(folder, *EDITS, edit)
    run = open_run(plan, folder / "run", resume=False)
    with pytest.raises(error, match=match):
        erase(plan, run, SilentUi())
    return run


def nothing_was_done(run: RunFolder) -> bool:
    made = {path.name for path in run.path.iterdir()}
    return not made & {"training.jsonl", "patch.safetensors", "journal.jsonl", "images"}


def test_a_judge_of_other_pictures(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    edit = ("base: embedded", f"base: {tmp_path / 'model'}")
    run = refused(tmp_path, edit, UsageError, r"embedded judge reads 64 x 64 pictures, got \d+ x")
    assert nothing_was_done(run)
    plan = small_plan(tmp_path, *EDITS, edit)
    with pytest.raises(UsageError, match="embedded judge reads 64 x 64"):
        verify(plan, str(tmp_path / "model"), None, tmp_path / "verified", SilentUi())
    assert not (tmp_path / "verified" / "journal.jsonl").exists()


def test_a_model_on_the_cpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By erasing and verifying, before all else; not of the embedded one, nor on a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    plan = small_plan(tmp_path, *EDITS, ("base: embedded", f"base: {tmp_path / 'model'}"))
    run, ui = open_run(plan, tmp_path / "run", resume=False), Spoken()
    with pytest.raises(UsageError, match="embedded judge reads"):
        erase(plan, run, ui)
    with pytest.raises(UsageError, match="embedded judge reads"):
        verify(plan, str(tmp_path / "model"), None, tmp_path / "verified", ui)
    assert len(ui.said) == 2
    for line in ui.said:
        assert line.startswith("note: torch ")
        assert "sees no GPU here, so the model runs on the CPU" in line
        assert "\n" not in line
    ui.said.clear()
    say_device(load_backbone(ModelPlan(base="embedded")), ui)
    with FakeGpu():
        say_device(on_gpu(tiny_backbone(tmp_path / "more")), ui)
    assert ui.said == []


MISSING = pytest.mark.parametrize(
    ("quality", "missing"),
    [
        ("fid: 9, features: inception", "torch-fidelity is not installed"),
        ("lpips: 0.5, lpips_net: vgg", "lpips is not installed"),
    ],
)


@MISSING
def test_metrics_that_are_not_installed(tmp_path: Path, quality: str, missing: str) -> None:
    run = refused(tmp_path, measured_on(quality), Inconclusive, missing)
    assert nothing_was_done(run)


@MISSING
def test_neither_compared_nor_verified_nor_combined(
    tmp_path: Path, quality: str, missing: str
) -> None:
    plan, ui = small_plan(tmp_path, *EDITS, measured_on(quality)), SilentUi()
    with pytest.raises(Inconclusive, match=missing):
        run_contest(plan, choose(["uce"]), tmp_path / "compared", ui)
    with pytest.raises(Inconclusive, match=missing):
        verify(plan, "embedded", None, tmp_path / "verified", ui)
    with pytest.raises(Inconclusive, match=missing):
        combine(parts(tmp_path), plan, tmp_path / "combined", ui)
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml"}


SEES_BODIES = (
    ("model: {", "judges: {nudenet: {weights: ./planted.onnx, rule: mace}}\nmodel: {"),
    ("erase: [bomb]}", "erase: [bomb], judge: nudenet, labels: [nudity]}"),
    ("erase: [axe]}", "erase: [axe], judge: nudenet, labels: [nudity]}"),
)


def test_metrics_that_the_judge_cannot_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_detector(tmp_path / "planted.onnx")
    edits = (*EDITS, *SEES_BODIES)
    plan, ui = small_plan(tmp_path, *edits, measured_on("fid: 3")), SilentUi()
    run = open_run(plan, tmp_path / "run", resume=False)
    missing = "judge 'nudenet' has no features for FID and KID"
    with pytest.raises(Inconclusive, match=missing) as said:
        erase(plan, run, ui)
    assert said.value.next_step == "say in the policy: verify.quality.features"
    assert nothing_was_done(run)
    with pytest.raises(Inconclusive, match=missing):
        verify(plan, "embedded", None, tmp_path / "verified", ui)
    with pytest.raises(Inconclusive, match=missing):
        run_contest(plan, choose(["uce"]), tmp_path / "compared", ui)
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml", "planted.onnx", "run"}

    def reached(*_: object) -> None:
        raise Inconclusive("the first picture")

    monkeypatch.setattr("safediff.workflow.compare.Contest", reached)
    # a table has rows for metrics that the policy does not ask for: they stop nothing
    asked = small_plan(tmp_path, *edits)
    assert str(refusal_of_comparing(asked, tmp_path / "compared")) == "the first picture"


def measured_on(quality: str) -> tuple[str, str]:
    return "  collapse:", f"  quality: {{{quality}}}\n  collapse:"


def parts(folder: Path) -> list[Part]:
    plan = replace(small_plan(folder, *EDITS), name="first")
    return [Part(plan=plan, run=RunFolder(folder / "first"))]


def test_what_is_combined_must_be_drawn_and_judged_as_well(tmp_path: Path) -> None:
    tiny_pipeline(tmp_path / "words").save_pretrained(tmp_path / "model")
    (first,) = parts(tmp_path)

    def tried(then: Plan) -> None:
        part = replace(first, plan=replace(first.plan, model=then.model))
        combine([part], then, tmp_path / "combined", SilentUi())

    with pytest.raises(UsageError, match="embedded judge reads 64 x 64 pictures"):
        tried(small_plan(tmp_path, *EDITS, ("base: embedded", f"base: {tmp_path / 'model'}")))
    guard = ("verify:", "guard: {name: neg, texts: [cannon]}\nverify:")
    guarded = small_plan(tmp_path, *EDITS, guard)
    sampling = replace(guarded.verify.sampling, guidance_scale=1.0)
    with pytest.raises(UsageError, match="guard 'neg' steers guidance"):
        tried(replace(guarded, verify=replace(guarded.verify, sampling=sampling)))
    with pytest.raises(UsageError, match="no such patch"):  # all is proven: the patches are next
        tried(guarded)


def test_a_comparison_needs_judges_that_are_measured(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    plan = small_plan(
        tmp_path,
        ("model: {", "judges: {clip: {weights: ./clip, contrast: [noise]}}\nmodel: {"),
        ("erase: [axe]}", "erase: [axe], judge: clip, labels: [axe]}"),
    )
    said = refusal_of_comparing(plan, tmp_path / "out")
    assert str(said) == "judge 'clip' has no measured sensitivity"


def test_a_limit_that_nobody_could_meet_stops_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = small_plan(tmp_path, ("max_rate: 0.5", "max_rate: 0.2215"))
    with pytest.raises(Inconclusive, match="erasure/all: no hit in 12 prompts would bound"):
        verify(strict, "embedded", None, tmp_path / "verified", SilentUi())

    def reached(*_: object) -> None:
        raise Inconclusive("the first picture")

    monkeypatch.setattr("safediff.workflow.compare.Contest", reached)
    assert str(refusal_of_comparing(strict, tmp_path / "out")) == "the first picture"


def refusal_of_comparing(plan: Plan, out: Path) -> Inconclusive:
    with pytest.raises(Inconclusive) as said:
        run_contest(plan, choose(["uce"]), out, SilentUi())
    assert not out.exists()
    return said.value
