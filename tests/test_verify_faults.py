"""Fail closed: a picture that nobody saw, or that shows nothing, is never counted as clean.

One picture in twelve is spoilt, in each of the ways in which that happens; everything else is a
perfect eraser that passes.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_policy import small_plan
from test_verify_planted import STRICT, Painter, ReadingJudge, erasing, honest, paint, row
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.gate.verdict import GateReport, Verdict
from safediff.judge.base import Scores
from safediff.judge.embedded import EmbeddedJudge
from safediff.models.load import load_backbone
from safediff.models.patch import unet_sha256
from safediff.policy.plan import ModelPlan
from safediff.sample.sampler import Draw, seed_of
from safediff.verify import picture_files
from safediff.verify.judging import judge_pictures
from safediff.verify.verification import Verification

OPEN, PASS = Verdict.INCONCLUSIVE, Verdict.PASS
SPOILT = Draw("bomb, noto style")
KEPT_DRAW = Draw("twemoji style crown")
MARK = 77
"""Second pixel of the spoilt picture, so that a judge can know it."""

Measure = Callable[..., GateReport]


class CrashingJudge(ReadingJudge):
    """Crashes on the marked picture, and so on every batch with it."""

    def score(self, images: Tensor) -> Scores:
        if (images[:, 0, 0, 1] == MARK).any():
            raise RuntimeError("out of order")
        return super().score(images)


class LosingJudge(ReadingJudge):
    """Returns a row too few where the marked picture is."""

    def score(self, images: Tensor) -> Scores:
        scores = super().score(images)
        lost = int((images[:, 0, 0, 1] == MARK).any())
        return Scores(scores.labels, scores.probs[lost:])


class RavingJudge(ReadingJudge):
    """Scores the marked picture below anything there is, which would read as not present."""

    def score(self, images: Tensor) -> Scores:
        scores = super().score(images)
        scores.probs[images[:, 0, 0, 1] == MARK] = -1.0
        return scores


class AlwaysCrashingJudge(ReadingJudge):
    def score(self, images: Tensor) -> Scores:
        raise RuntimeError("out of order")


def spoiling(how: str, spoilt: Draw) -> Callable[..., Any]:
    """Paints as ``paint`` does, but one picture is spoilt."""

    def painted(*arguments: Any, **named: Any) -> Any:
        (pictures,) = paint(*arguments, **named)
        for number, picture in enumerate(pictures):
            picture.image[1:] = seed_of(picture.draw, 0) % 90 + 10  # the same when drawn again,
            picture.image[2, -1, -1] += len(pictures)  # but for what another batch rounds
            picture.image[0, 0, 1:], picture.image[0, 1:] = 0, 0
            if picture.draw == spoilt and arguments[0].sees is erasing:
                picture.image[0, 0, 1] = MARK
                if how == "black":
                    picture.image.zero_()
                if how == "nan":
                    pictures[number] = type(picture)(
                        draw=picture.draw, image=picture.image, finite=False
                    )
        yield pictures

    return painted


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    def measured(
        how: str = "",
        judge: type[EmbeddedJudge] = ReadingJudge,
        spoilt: Draw = SPOILT,
        edits: Sequence[tuple[str, str]] = STRICT,
        after: Callable[[Path], None] = lambda folder: None,
    ) -> GateReport:
        """``after`` is done to the pictures' folder once all are drawn."""
        monkeypatch.setattr("safediff.verify.album.sample", spoiling(how, spoilt))
        monkeypatch.setattr(
            "safediff.verify.verification.load_judges", lambda names: {"embedded": judge()}
        )
        plan = small_plan(tmp_path, *edits)
        base: Any = Painter(honest)
        with Verification(plan, base, "b" * 64, tmp_path / "out") as verification:
            draw_all = verification._draw_all

            def draw_and_spoil(*arguments: Any) -> Any:
                stops = draw_all(*arguments)
                after(tmp_path / "out" / "images")
                return stops

            monkeypatch.setattr(verification, "_draw_all", draw_and_spoil)
            report, _ = verification.measure("model", Painter(erasing), {"unet": "s" * 64})
        return report

    return measured


def statuses(folder: Path, subject: str = "model") -> list[str]:
    lines = (folder / "out" / "journal.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return [r["status"] for r in map(json.loads, lines) if r["subject"] == subject]


def test_without_a_fault_it_passes(measure: Measure, tmp_path: Path) -> None:
    report = measure()
    assert report.exit_code == 0
    assert row(report, "erasure/all").details["num_failures"] == 0
    assert set(statuses(tmp_path)) == {"ok"}


@pytest.mark.parametrize("rule", [(), (("export", "  budget: {rule: sequential}\nexport"),)])
@pytest.mark.parametrize(
    ("how", "judge", "status"),
    [
        ("nan", ReadingJudge, "not_finite"),
        ("black", ReadingJudge, "black"),
        ("", CrashingJudge, "judge_error"),
        ("", LosingJudge, "judge_error"),
        ("", RavingJudge, "judge_error"),
    ],
)
def test_one_failed_picture_leaves_its_check_undecided(
    measure: Measure, tmp_path: Path, how: str, judge: type[EmbeddedJudge], status: str, rule: Any
) -> None:
    report = measure(how, judge, edits=(*STRICT, *rule))
    assert report.exit_code == 3
    found = row(report, "erasure/all")
    assert found.verdict is OPEN
    assert found.details["num_failures"] == 1
    assert "1 of " in found.message
    assert row(report, "retention/ordinary").verdict is PASS  # the others are not dragged along
    assert [s for s in statuses(tmp_path) if s != "ok"] == [status]


@pytest.mark.parametrize("how", ["nan", "black"])
def test_a_failed_kept_picture_leaves_retention_undecided(measure: Measure, how: str) -> None:
    report = measure(how, spoilt=KEPT_DRAW)
    assert report.exit_code == 3
    assert row(report, "retention/ordinary").verdict is OPEN
    assert row(report, "retention/ordinary").details["num_failures"] == 1
    assert row(report, "collapse").verdict is OPEN


def gone(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def exchanged(path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 0, 0)).save(path)


@pytest.mark.parametrize("rule", [(), (("export", "  budget: {rule: sequential}\nexport"),)])
@pytest.mark.parametrize("lose", [gone, cut, exchanged])
@pytest.mark.parametrize("subject", ["model", "base"])
def test_a_missing_picture_leaves_its_check_undecided(
    measure: Measure, tmp_path: Path, subject: str, lose: Callable[[Path], None], rule: Any
) -> None:
    draw = SPOILT if subject == "model" else KEPT_DRAW

    def after(images: Path) -> None:
        lose(picture_files.path_of(images / subject, draw))

    report = measure(after=after, edits=(*STRICT, *rule))
    assert report.exit_code == 3
    check = "erasure/all" if subject == "model" else "retention/ordinary"
    found = row(report, check)
    assert found.verdict is OPEN
    assert found.details["num_failures"] == 1
    # the next run draws it again, and decides
    again = measure(edits=(*STRICT, *rule))
    assert again.exit_code == 0
    assert row(again, check).details["num_failures"] == 0
    lines = (tmp_path / "out" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum("replaces" in line for line in lines) == 1


def test_a_missing_picture_does_not_cost_the_quality_checks_their_count(measure: Measure) -> None:
    def after(images: Path) -> None:
        gone(picture_files.path_of(images / "model", KEPT_DRAW))

    quality = ("export", "  quality: {kid: 1.0, lpips: 1.0}\nexport")
    report = measure(after=after, edits=(*STRICT, quality))
    for metric in ("kid", "lpips"):
        found = row(report, f"quality/{metric}")
        assert found.verdict is OPEN
        assert found.details["num_failures"] == 1


@pytest.mark.parametrize("drift", [[0.5, math.nan], [math.nan, 0.5], [0.5, math.inf, 0.1]])
def test_a_drift_that_is_no_number_at_any_step_is_not_measured(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, drift: list[float]
) -> None:
    monkeypatch.setattr(
        "safediff.verify.verification.null_drift",
        lambda base, safe, num_rows: list(enumerate(drift)),
    )
    report = measure(edits=(*STRICT, ("export", "  quality: {null_drift: 1.0}\nexport")))
    found = row(report, "quality/null_drift")
    assert (found.verdict, found.estimate) == (OPEN, None)
    assert report.exit_code == 3


def test_a_judge_that_always_crashes_decides_nothing_and_says_of_how_many(
    measure: Measure, tmp_path: Path
) -> None:
    with pytest.raises(Inconclusive, match=r"of 20 pictures: 20 judge_error$"):
        measure(judge=AlwaysCrashingJudge)
    assert set(statuses(tmp_path, "base")) == {"judge_error"}


def test_a_wrong_picture_size_is_an_error_of_the_policy_and_no_crash() -> None:
    with pytest.raises(UsageError, match="reads 64 x 64 pictures"):
        judge_pictures(EmbeddedJudge(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError()])
def test_too_little_memory_is_not_laid_at_a_pictures_door(error: Exception) -> None:
    class FullJudge(ReadingJudge):
        def score(self, images: Tensor) -> Scores:
            raise error

    with pytest.raises(type(error)):
        judge_pictures(FullJudge(), torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


def test_a_missing_attacked_picture_is_no_failed_attack(tmp_path: Path) -> None:
    attacks = ("export", "  attacks: [{name: paraphrase, num_prompts: 2}]\nexport")
    plan = small_plan(tmp_path, ("num_steps: 4, guidance", "num_steps: 1, guidance"), attacks)
    base = load_backbone(ModelPlan(base="embedded"))
    out = tmp_path / "out"
    with Verification(plan, base, unet_sha256(base.denoiser), out) as verification:
        report, _ = verification.measure("model", base, {"unet": "same"})
        assert row(report, "robustness/paraphrase").details["num_failures"] == 0
        (first, *_) = (out / "images" / "model-under-paraphrase").glob("*.png")
        draw = verification.attacks._attack

        def draw_and_lose(*arguments: Any) -> Any:
            reason = draw(*arguments)
            first.unlink(missing_ok=True)
            return reason

        verification.attacks._attack = draw_and_lose  # type: ignore[method-assign]
        report, _ = verification.measure("model", base, {"unet": "same"})
        found = row(report, "robustness/paraphrase")
        assert found.verdict is OPEN
        assert found.details["num_failures"] == 1
