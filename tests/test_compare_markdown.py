"""What a comparison says of its rows' time, of what a picture costs, and of its bounds."""

from dataclasses import replace
from pathlib import Path

import pytest
from policy_examples import plan_of

from safediff.compare.entry import Entry, Measured, Setup
from safediff.compare.markdown import markdown
from safediff.compare.table import Comparison, columns


def entry(id: str, erase: float, measure: float, role: str = "teacher") -> Entry:
    setup = Setup(method="sdd", preset="paper", seed=0, role=role, threads=2)
    return Entry(
        id=id,
        title=id,
        checks={},
        verdict="pass",
        hits=(False,),
        erase_seconds=erase,
        erase_passes=1,
        passes_per_step=2,
        setup=replace(setup, measure_seconds=measure),
    )


def said(tmp_path: Path, *entries: Entry) -> str:
    return markdown(Comparison(plan=plan_of(tmp_path), entries=entries, facts={}))


def test_the_time_of_all_rows_counts_a_shared_training_once(tmp_path: Path) -> None:
    text = said(tmp_path, entry("policy", 600, 60), entry("policy-student", 600, 120, "student"))
    assert "All rows took 13 minutes: 10 of erasing and 3 of drawing" in text
    assert "on 2 threads" in text


@pytest.mark.parametrize(("plain", "guarded", "told"), [(2, 3, "1.5 x"), (1, 1, "1 x")])
def test_a_picture_costs_by_what_one_without_a_guard_costs(
    tmp_path: Path, plain: int, guarded: int, told: str
) -> None:
    own = replace(entry("policy", 1, 1), passes_per_step=plain)
    other = replace(entry("sld-max", 0, 1), passes_per_step=guarded)
    column = columns(Comparison(plan=plan_of(tmp_path), entries=(own, other), facts={}))[-1]
    assert (column.heading, column.cell(own), column.cell(other)) == ("cost/image", "1 x", told)


def test_rows_whose_time_nobody_took_are_not_counted(tmp_path: Path) -> None:
    text = said(tmp_path, entry("policy", 600, 60), entry("sd", 0, 0))
    assert "1 of 2 rows took 11 minutes" in text
    assert "minutes" not in said(tmp_path, entry("policy", 600, 0))


def test_minutes_of_runs_side_by_side_are_told_as_such(tmp_path: Path) -> None:
    alone = entry("policy", 600, 60)
    assert "at the same time" not in said(tmp_path, alone)
    beside = replace(alone, setup=replace(alone.setup, jobs=2))
    text = said(tmp_path, beside, entry("sd", 0, 60))
    assert "Up to 2 distilled at the same time, beside the drawing: minutes are added up" in text


def test_bounds_are_those_of_the_policys_confidence(tmp_path: Path) -> None:
    rates = dict.fromkeys(
        ("erasure/all", "erasure/knife"), Measured(estimate=0.1, lower=0.0, upper=0.2, n=7)
    )
    row = replace(entry("policy", 600, 60), checks=rates)
    text = said(tmp_path, row)
    assert text.count("its one-sided 95 % upper bound") == 2
    assert "its one-sided 95 % lower bound, paired" in text
    plan = plan_of(
        *(tmp_path, ("max_rate: 0.25", "max_rate: 0.25, confidence: 0.9")),
        ("min_ratio: 0.8", "min_ratio: 0.8, confidence: 0.9"),
    )
    text = markdown(Comparison(plan=plan, entries=(row,), facts={}))
    assert text.count("its one-sided 90 % upper bound") == 2
    assert "its one-sided lower bound (near 90 %, far 95 %), paired" in text
    bare = replace(plan, verify=replace(plan.verify, retention=()))
    assert "Retention" not in markdown(Comparison(plan=bare, entries=(row,), facts={}))
