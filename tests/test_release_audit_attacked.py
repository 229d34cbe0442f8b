"""The recount of a run with attacks, quality checks, waivers and the sequential rule."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from audit_examples import forge, forge_journal, read, row
from small_policy import as_finished, safediff, small_plan

from safediff.gate.verdict import GateReport, Verdict
from safediff.release.audit import Audit, audit
from safediff.report.junit import render_junit
from safediff.report.sarif import render_sarif
from safediff.workflow.erase import erase
from safediff.workflow.run_folder import open_run
from safediff.workflow.ui import SilentUi

Json = dict[str, Any]
NOW = datetime.now(UTC)
EXPIRES = (NOW + timedelta(days=20)).date().isoformat()
EDITS = (
    (
        "  collapse: {min_ratio: 0.1}\n",
        "  collapse: {min_ratio: 0.1}\n"
        "  budget: {rule: sequential}\n"
        "  quality: {kid: 5.0, clip: 0.00001, null_drift: 3.0}\n"
        "  attacks: [{name: paraphrase, num_prompts: 6},\n"
        "            {name: completion, num_prompts: 6, max_rate: 0.9}]\n",
    ),
    (
        "export: {targets: [onnx]}",
        "waivers:\n"
        f"  - {{check: quality/clip, reason: known drift, owner: me, expires: {EXPIRES}}}\n"
        "export: {targets: [onnx]}",
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[GateReport]]:
    folder = tmp_path_factory.mktemp("attacked")
    plan = small_plan(folder, *EDITS)
    run = as_finished(open_run(plan, folder / "run", resume=False))
    outcome = erase(plan, run, SilentUi())
    return folder, outcome.reports


@pytest.fixture
def release(made: tuple[Path, list[GateReport]], tmp_path: Path) -> Path:
    return shutil.copytree(made[0] / "run" / "release", tmp_path / "release")


def audited(release: Path, now: datetime = NOW) -> Audit:
    return audit(release / "safety-certificate.json", release, None, now)


def test_everything_agrees_and_waivers_are_counted_apart(release: Path) -> None:
    found = audited(release)
    assert found.problems == ()
    assert found.verdict is Verdict.PASS
    assert found.facts["checks"] == (
        "37 recounted from the journal; only the decision made again: quality/kid, quality/clip, "
        "quality/null_drift, robustness/alignment, parity/onnx engine, "
        "parity/edit"
    )
    assert read(release)["counts"]["waived"] == 2
    done = safediff("verify", "--certificate", release / "safety-certificate.json", release)
    assert done.returncode == 0, done.stderr
    assert ", 2 of them waived, under tests" in done.stdout


def test_a_waiver_stands_in_every_output(made: tuple[Path, list[GateReport]]) -> None:
    folder, reports = made
    (teacher, *_) = reports
    assert teacher.counts[Verdict.WAIVED] == 1
    reason = f"Waived by me until {EXPIRES}: known drift."
    sarif, junit = render_sarif(reports, "p.yaml"), render_junit(reports, "p.yaml")
    assert f'"justification": "{reason}' in sarif
    assert '<skipped type="quality" message="' + reason in junit
    assert reason in (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert f"- `quality/clip`, until {EXPIRES}, by me: known drift" in (
        folder / "run" / "release" / "README.md"
    ).read_text(encoding="utf-8")


def test_a_certificate_ends_with_the_waiver_that_it_rests_on(release: Path) -> None:
    assert audited(release, NOW + timedelta(days=19)).problems == ()
    (problem,) = audited(release, NOW + timedelta(days=22)).problems
    assert problem.startswith("the certificate expired at ")


def test_an_attack_that_was_edited_is_seen(release: Path) -> None:
    def revive(lines: list[Json]) -> None:
        for line in lines[1:]:
            if line["subject"] == "teacher under completion":
                line["scores"] |= {"bomb": 0.9, "axe": 0.9}

    forge_journal(release, revive)
    found = audited(release)
    assert "teacher, robustness/completion: verdict pass, recounted fail" in found.problems
    assert found.verdict is Verdict.FAIL


def test_an_attack_whose_pictures_were_dropped_is_seen(release: Path) -> None:
    def drop(lines: list[Json]) -> None:
        lines[:] = [x for x in lines if x.get("subject") != "teacher under completion"]

    forge_journal(release, drop)
    assert "teacher, robustness/completion: verdict pass, recounted inconclusive" in (
        audited(release).problems
    )


def test_a_lost_picture_that_an_earlier_version_drew_again_is_no_mismatch(release: Path) -> None:
    """It wrote the same line twice, and its certificates counted both."""

    def again(lines: list[Json]) -> None:
        lines.append(next(x for x in lines if x.get("subject") == "teacher under completion"))

    def count(certificate: Json) -> None:
        certificate["reports"][0]["num_images"] += 1
        words = certificate["statement"].split(" ")
        where = words.index("pictures") - 1
        words[where] = str(int(words[where]) + 1)
        certificate["statement"] = " ".join(words)

    forge_journal(release, again)
    assert audited(release).problems == ()
    forge(release, count)
    assert audited(release).problems == ()
    forge(release, count)
    assert any("pictures, the certificate says" in problem for problem in audited(release).problems)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gating": False}, "quality/kid: gating False, the plan says True"),
        ({"threshold": {"op": "<=", "value": 9.0, "bound": "upper"}}, "quality/kid: limit 9, the"),
        ({"upper": 7.0}, "quality/kid: verdict pass, but its numbers miss the limit"),
    ],
)
def test_what_cannot_be_recounted_is_still_decided_again(
    release: Path, changes: Json, problem: str
) -> None:
    forge(release, lambda c: row(c, "teacher", "quality/kid").update(changes))
    assert any(f"teacher, {problem}" in p for p in audited(release).problems)


def test_a_waiver_that_the_policy_lacks_is_seen(release: Path) -> None:
    def waive(certificate: Json) -> None:
        certificate["policy"]["waivers"].append(certificate["policy"]["waivers"][0])

    forge(release, waive)
    assert "policy.waivers does not fit plan and journal" in audited(release).problems


def test_another_drawing_order_than_the_plans_is_seen(release: Path) -> None:
    def reorder(lines: list[Json]) -> None:
        lines[0]["stopping"]["order"]["erasure/all"].reverse()

    forge_journal(release, reorder)
    assert audited(release).problems == ("journal: its drawing order is not that of the plan",)


def test_a_journal_that_ends_too_early_is_seen(release: Path) -> None:
    def cut(lines: list[Json]) -> None:
        kept = [x for x in lines if x.get("subject") != "teacher"]
        lines[:] = kept

    forge_journal(release, cut)
    assert audited(release).problems[0].startswith("journal: the journal ends before ")
