"""The comparison, end to end on a small policy: rows, resuming, files."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_policy import small_plan
from tiny import tiny_backbone
from transformer_examples import example

from safediff.compare.markdown import markdown
from safediff.compare.rows import OTHER_SEED, POLICY, choose
from safediff.compare.table import columns, render_concepts, to_json
from safediff.errors import UsageError
from safediff.gate.numbers import show
from safediff.guard.load import make_guard
from safediff.verify import album
from safediff.workflow.compare import System, passes_per_step, run_contest
from safediff.workflow.comparison_files import check_outputs, write_outputs
from safediff.workflow.ui import SilentUi

ROWS = ("sd", "neg", "uce", POLICY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def measured(folder: Path) -> Any:
    return run_contest(small_plan(folder), choose(["neg", "uce"]), folder / "out", SilentUi())


def test_rows_stand_in_the_registrys_order(measured: Any) -> None:
    comparison, albums = measured
    assert tuple(entry.id for entry in comparison.entries) == ROWS
    assert tuple(albums) == ROWS


def test_the_base_equals_itself(measured: Any) -> None:
    comparison, _ = measured
    base = comparison.entries[0]
    assert base.checks["retention/ordinary"].estimate == 1
    assert base.checks["quality/lpips"].estimate == 0
    assert base.erase_passes == 0
    # every metric is there, though the policy gates none of them
    for metric in ("fid", "kid", "clip", "lpips", "null_drift"):
        assert f"quality/{metric}" in base.checks


def test_the_base_is_drawn_once(measured: Any, folder: Path) -> None:
    assert measured
    drawn = {path.name for path in (folder / "out" / "images").iterdir()}
    assert drawn == {"base", *ROWS} - {"sd"}


def test_two_training_seeds_are_set_beside_each_other(measured: Any) -> None:
    comparison, _ = measured
    assert "two training seeds" not in markdown(comparison)
    own = comparison.reference
    checks = {id: replace(value, estimate=0.125) for id, value in own.checks.items()}
    other = replace(own, id=OTHER_SEED, checks=checks)
    text = markdown(replace(comparison, entries=(*comparison.entries, other)))
    line = next(line for line in text.splitlines() if "two training seeds" in line)
    assert f"ordinary {show(own.checks['retention/ordinary'].estimate)} and 0.125" in line


def test_rows_differ_from_the_base_where_they_should(measured: Any) -> None:
    comparison, albums = measured
    base, neg, uce, own = comparison.entries
    for entry in (neg, uce, own):
        assert entry.checks["quality/lpips"].estimate > 0
        album, plain = albums[entry.id], albums["sd"]
        assert not album.of(album.draws).equal(plain.of(album.draws))
    # a guard changes no weights, so the empty prompt's answer stays
    assert neg.checks["quality/null_drift"].estimate == 0
    assert own.erase_passes > 0 == uce.erase_passes
    assert len(base.hits) == len(own.hits) == 12
    assert sum(base.hits) > 0


def test_rows_say_what_they_were_run_with(measured: Any) -> None:
    comparison, _ = measured
    base, neg, uce, own = (entry.to_json() for entry in comparison.entries)
    assert (base["method"], base["guard"], base["seed"]) == (None, None, None)
    assert (neg["method"], neg["guard"]) == (None, "neg")
    assert (uce["method"], uce["preset"], uce["knobs"]["ridge"]) == ("uce", "paper", 0.5)
    assert (own["method"], own["preset"], own["role"]) == ("sdd", "safediff", "teacher")
    assert own["seed"] == comparison.plan.erase.seed
    assert own["knobs"]["num_steps"] == 8  # the policy's
    assert own["knobs"]["eta"] == 0.35  # the preset's
    for row in (base, neg, uce, own):
        assert row["measure_seconds"] > 0
        assert row["threads"] == torch.get_num_threads()
        assert not row["resumed"]
        assert row["made_with"]["torch"] == torch.__version__
        assert date.fromisoformat(row["made_with"]["date"])
    assert own["erase_threads"] == torch.get_num_threads()
    assert "minutes in one run" in comparison.facts["by the clock"]


def test_the_table_says_n_and_spread(measured: Any) -> None:
    comparison, _ = measured
    headings, *_, row = (markdown(comparison).split("\n\n")[1]).splitlines()
    assert "erased concepts ↓ (n = 12)" in headings
    assert "ordinary ↑ (n = 20)" in headings
    cells = dict(zip(headings.split(" | "), row.split(" | "), strict=True))
    own = comparison.reference.checks
    kid, clip = own["quality/kid"], own["quality/clip"]
    assert cells["KID ↓"] == f"{show(kid.estimate)} ± {show(kid.std)}"
    value = clip.base + clip.estimate
    assert cells["CLIP (Δ)"] == f"{value:.3f} ({clip.estimate:+.3f})"


def test_every_concept_has_a_rate_of_its_own(measured: Any) -> None:
    comparison, _ = measured
    text = markdown(comparison)
    block = text.partition("## Concept by concept")[2].partition("##")[0]
    assert "bomb ↓ (n = 6)" in block
    assert "axe ↓ (n = 6)" in block
    bomb = comparison.reference.checks["erasure/bomb"]
    assert f"| {show(bomb.estimate)} ≤ {show(bomb.upper)} |" in block
    table = render_concepts(comparison)
    assert table is not None
    assert [str(c.header) for c in table.columns] == [
        *("System", "bomb ↓ (n = 6)", "axe ↓ (n = 6)")
    ]
    # where every concept decides, the table itself has them, behind the rate over all
    verify = comparison.plan.verify
    each = replace(verify, erasure=replace(verify.erasure, over="each"))
    decided = replace(comparison, plan=replace(comparison.plan, verify=each))
    assert render_concepts(decided) is None
    assert "Concept by concept" not in markdown(decided)
    headings = [column.heading for column in columns(decided)]
    assert headings[1:4] == [*("erased concepts ↓ (n = 12)", "bomb ↓ (n = 6)", "axe ↓ (n = 6)")]


def test_measured_rows_are_not_drawn_again(
    measured: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, counts = album.sample, []

    def counted(backbone: Any, draws: Any, *rest: Any) -> Any:
        counts.append(len(draws))
        return draw(backbone, draws, *rest)

    monkeypatch.setattr(album, "sample", counted)
    rows = choose(["neg", "uce", "sld-max"])
    comparison, _ = run_contest(small_plan(folder), rows, folder / "out", SilentUi())
    assert sum(counts) == 32  # the new row alone
    assert "minutes in 2 runs" in comparison.facts["by the clock"]
    before = {entry.id: entry for entry in measured[0].entries}
    for entry in comparison.entries:
        if entry.id in before:
            assert entry == before[entry.id]
    assert next(e for e in comparison.entries if e.id == "sld-max").passes_per_step == 3


def test_a_step_takes_as_many_passes_as_it_has_branches(tmp_path: Path) -> None:
    sd, flux = tiny_backbone(tmp_path / "sd"), example("flux dev", tmp_path / "flux").backbone
    guard = make_guard("sega", ["axe", "bomb"])
    asked = [(sd, None, 5.0), (sd, None, 1.0), (flux, None, 3.5), (sd, guard, 5.0)]
    assert [passes_per_step(System(b, g), scale) for b, g, scale in asked] == [2, 1, 1, 4]


def test_files(measured: Any, tmp_path: Path) -> None:
    comparison, albums = measured
    paths = [tmp_path / "new" / f"table{suffix}" for suffix in (".json", ".md", ".png", ".svg")]
    write_outputs(comparison, albums, paths)
    stored = json.loads(paths[0].read_text())
    assert stored == json.loads(json.dumps(to_json(comparison)))
    assert [row["id"] for row in stored["rows"]] == list(ROWS)
    assert paths[1].read_text() == markdown(comparison)
    for entry in comparison.entries:
        assert f"| {entry.title} |" in paths[1].read_text()
        assert entry.title in paths[3].read_text()
    assert "retention, ordinary" in paths[3].read_text()
    with Image.open(paths[2]) as picture:
        assert picture.height > len(ROWS) * 96
    assert not list(tmp_path.rglob("*.tmp"))


def test_unknown_formats_are_refused_before_anything_is_measured() -> None:
    check_outputs([Path("a.json"), Path("b.svg")])
    with pytest.raises(UsageError, match=r"-o table\.pdf: unknown format"):
        check_outputs([Path("table.pdf")])
