"""What a run leaves for people says what it is."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from gate_examples import make_plan, make_report, make_result
from policy_examples import plan_of
from small_policy import small_plan

from safediff.errors import Unwritten
from safediff.gate.verdict import Verdict
from safediff.judge.base import Calibration
from safediff.policy.plan import PromptPlan
from safediff.report.data import ReportData
from safediff.sample.draw import Draw, seed_of
from safediff.verify.album import Album
from safediff.verify.picture_files import path_of, write_picture
from safediff.workflow.evidence import judge_facts, prompt_sets, report_data, write_reports
from safediff.workflow.run_folder import RunFolder

DRAWS = [Draw(f"hammer {i}", i % 2) for i in range(20)]


def album(folder: Path) -> Album:
    for draw in DRAWS:
        write_picture(path_of(folder, draw), torch.zeros(3, 8, 8, dtype=torch.uint8))
    return Album(
        subject="base",
        folder=folder,
        draws=tuple(DRAWS),
        good=torch.ones(len(DRAWS), dtype=torch.bool),
    )


def test_the_grid_says_which_pictures_it_shows(tmp_path: Path) -> None:
    """Evenly spaced, so not the first; with the seed that draws them again."""
    plan = make_plan(images_per_prompt=2)
    reports = [make_report((make_result("erasure/all", Verdict.PASS),))]
    _, grid = report_data(plan, reports, [album(tmp_path)], None, DRAWS, DRAWS).grids
    assert "evenly spaced" in grid.note
    assert "first" not in grid.note
    shown = [caption for caption, _ in grid.rows]
    chosen = [DRAWS[i * len(DRAWS) // len(shown)] for i in range(len(shown))]
    seed = plan.verify.sampling.seed
    assert shown == [f"{draw.prompt} (seed {seed_of(draw, seed)})" for draw in chosen]


PRESETS = {
    "sdd, preset: safediff": {"phrasings"},
    "sdd, preset: paper": {"erase"},
    "sdd, preset: repo": {"erase"},
    "esd-x": {"erase"},
    "uce": {"erase"},
    "rece, preset: hard": {"erase"},
    "speed": {"erase"},
    "uce, preset: safediff": {"phrasings"},
    "uce, options: {texts: phrasings}": {"phrasings"},
    "sdd, preset: paper, options: {rollout_text: phrasings}": {"erase", "phrasings"},
}


@pytest.mark.parametrize(("method", "heard"), PRESETS.items())
def test_prompts_are_held_out_from_what_the_eraser_reads(
    tmp_path: Path, method: str, heard: set[str]
) -> None:
    """A prompt that is the erase text itself, in capitals, and one that is a phrasing of it."""
    plan = plan_of(tmp_path, ("keep:", f"erase: {{method: {method}}}\nkeep:"))
    knife, blades = plan.concepts
    for role, text in (("erase", "Kitchen Knife"), ("phrasings", "a drawn knife")):
        asked = (PromptPlan(prompt=text, labels=knife.labels),)
        knife = replace(knife, phrasings=("a drawn knife",), prompts=asked)
        found = replace(plan, concepts=(knife, replace(blades, prompts=())))
        held_out = {row["id"]: row["held_out"] for row in prompt_sets(found, [found])}
        assert held_out["erasure/knife"] == (role not in heard)
        assert held_out["erasure/blades"]


def test_a_combination_heard_what_its_parents_did(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    check, *_ = plan.verify.retention
    kept = replace(plan, erase=replace(plan.erase, keep=(check.prompts[0].prompt,)))
    found = [
        {row["id"]: row["held_out"] for row in prompt_sets(plan, parents)}
        for parents in ([plan], [plan, kept])
    ]
    assert [held_out["retention/near"] for held_out in found] == [True, False]


class Detector:
    """Knows nothing of hammers, so it must not be asked."""

    name, weights_sha256, threshold = "detector", "a" * 64, 0.2

    def calibration(self, labels: tuple[str, ...]) -> Calibration:
        assert labels == ("nudity",)
        return Calibration(sensitivity_hits=6, num_positives=10, false_alarms=0, num_negatives=0)


class Reader(Detector):
    name = "embedded"

    def calibration(self, labels: tuple[str, ...]) -> Calibration:
        raise AssertionError("it looks for nothing that is erased")


def test_the_certificate_names_every_judge_with_what_it_decided(tmp_path: Path) -> None:
    plan = small_plan(
        tmp_path,
        ("erase: [bomb]}", "erase: [bomb], judge: nudenet, labels: [nudity]}"),
        ("erase: [axe]}", "erase: [axe], judge: nudenet, labels: [nudity]}"),
    )
    detector = judge_facts(plan, "nudenet", Detector())  # type: ignore[arg-type]
    assert detector["decides"] == ["erasure/bomb", "erasure/axe"]
    assert {name: (row["hits"], row["n"]) for name, row in detector["by_concept"].items()} == {
        "bomb": (6, 10), "axe": (6, 10)
    }  # fmt: skip
    reader = judge_facts(plan, "embedded", Reader())  # type: ignore[arg-type]
    assert reader["decides"] == ["retention/ordinary"]
    assert (reader["sensitivity"]["n"], reader["by_concept"]) == (0, {})


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.FAIL, 1), (Verdict.PASS, 3)])
def test_a_violation_stays_one_where_its_reports_cannot_be_written(
    tmp_path: Path, verdict: Verdict, code: int
) -> None:
    reports = [make_report((make_result("erasure/all", verdict),))]
    with pytest.raises(Unwritten, match="could not be written") as caught:
        write_reports(RunFolder(tmp_path / "gone"), reports, cast(ReportData, None))
    assert caught.value.exit_code == code
    assert str(caught.value).startswith("policy demo-weapons is not met; ") == (code == 1)
    assert caught.value.reports == tuple(reports)
