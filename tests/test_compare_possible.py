"""Rows that a base does not allow are found before anything is drawn, and are not lost sight of."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_policy import QUICK, small_plan
from tiny import tiny_backbone
from transformer_examples import example

from safediff.compare.earlier import read_earlier
from safediff.compare.markdown import markdown
from safediff.compare.possible import possible_rows
from safediff.compare.rows import ALL, POLICY, ROWS, choose
from safediff.compare.table import to_json
from safediff.errors import UsageError
from safediff.models.backbone import Backbone
from safediff.policy.plan import Plan
from safediff.workflow.compare import run_contest
from safediff.workflow.comparison_files import write_outputs
from safediff.workflow.ui import SilentUi

GUARDS = {"neg", "sega", "sega-medium", "sega-strong", "sega-max"} | {
    f"sld-{which}" for which in ("weak", "weak-200", "medium", "strong", "max")
}
CLOSED = {"uce", "rece", "speed", "uce-fitted", "rece-fitted", "speed-fitted"}
OF_STATES = {"policy-hardened", "sdd-safediff", "sdd-fast"}
"""Rows whose settings are about what keys and values of the text read."""
PUBLISHED = {"esd-u-3", "esd-x-3", "esd-x-1", "esd-x-strict"} | {
    f"sdd-{which}" for which in ("teacher", "student", "repo-teacher", "repo-student")
}
PLAIN = ("num_steps: 8, learning", "null_space: 0.0, num_steps: 8, learning")
UNGUIDED = ("guidance_scale: 5.0", "guidance_scale: 0.0")


def left_out(plan: Plan, base: Backbone) -> set[str]:
    rows, missing = possible_rows(choose(["all"], plan), plan, base)
    chosen = {row.id for row in choose(["all"], plan)}
    assert {row.id for row in rows} == chosen - set(missing)
    assert all(missing.values())
    return set(missing)


def test_everything_is_possible_on_guided_unets(tmp_path: Path) -> None:
    assert left_out(small_plan(tmp_path), tiny_backbone(tmp_path)) == set()


def test_guards_need_guidance(tmp_path: Path) -> None:
    base = tiny_backbone(tmp_path)
    plan = small_plan(tmp_path, UNGUIDED)
    assert left_out(plan, base) == GUARDS
    # one prompt of its own guidance is enough
    plan = small_plan(tmp_path)
    first, *others = plan.concepts
    low = (replace(first.prompts[0], guidance_scale=1.0), *first.prompts[1:])
    plan = replace(plan, concepts=(replace(first, prompts=low), *others))
    assert left_out(plan, base) == GUARDS


def test_transformers_lack_what_their_attention_has_not(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, PLAIN)
    assert left_out(plan, example("sd3", tmp_path / "sd3").backbone) == CLOSED | OF_STATES
    dev = example("flux dev", tmp_path / "dev").backbone
    assert left_out(plan, dev) == CLOSED | OF_STATES | GUARDS
    once = small_plan(tmp_path, ("num_steps: 8, learning", "guidance_scale: 1.0, " + PLAIN[1]))
    schnell = example("flux schnell", tmp_path / "schnell").backbone
    assert left_out(once, schnell) == CLOSED | OF_STATES | GUARDS | PUBLISHED


def test_a_text_that_joined_does_not_fit_leaves_out_what_joins(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    first, *others = plan.concepts
    many = replace(first, erase=tuple(f"something long {i}" for i in range(9)))
    plan = replace(plan, concepts=(many, *others))
    base = tiny_backbone(tmp_path)  # a token a letter
    joining = {row for row in PUBLISHED if row.startswith("sdd-")}
    assert joining <= left_out(plan, base) <= joining | GUARDS


def test_what_is_named_is_refused_in_one_line(tmp_path: Path) -> None:
    plan, base = small_plan(tmp_path, UNGUIDED), tiny_backbone(tmp_path)
    with pytest.raises(UsageError, match=r"row 'neg': guard 'neg' steers guidance") as refused:
        possible_rows(choose(["neg"], plan), plan, base, ["neg"])
    assert "\n" not in str(refused.value)
    assert "erase instead" in refused.value.next_step
    joint = example("sd3", tmp_path / "sd3").backbone
    with pytest.raises(UsageError, match=r"row 'policy': erase\.options\.null_space"):
        possible_rows([ROWS[POLICY]], plan, joint)
    assert {*ALL} >= GUARDS | CLOSED | OF_STATES | PUBLISHED


def test_the_table_says_what_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    ui = SilentUi()
    ui.say = said.append  # type: ignore[method-assign]
    plan, rows = small_plan(tmp_path, QUICK[1], UNGUIDED), choose(["neg", "uce"])
    plan = replace(
        plan, verify=replace(plan.verify, sampling=replace(plan.verify.sampling, num_steps=1))
    )
    with pytest.raises(UsageError, match="row 'neg'"):
        run_contest(plan, rows, tmp_path / "out", ui, named=["neg"])
    assert not (tmp_path / "out").exists()
    threads = torch.get_num_threads()
    found, albums = run_contest(plan, rows, tmp_path / "out", ui)
    assert torch.get_num_threads() == threads
    assert [entry.id for entry in found.entries] == ["sd", "uce", POLICY]
    (note,) = said
    assert note.startswith("note: row neg is left out: guard 'neg' steers guidance")
    assert "- SD+NEG (`neg`): guard 'neg' steers guidance" in markdown(found)
    assert "Not measured" not in markdown(replace(found, left_out={}))
    write_outputs(found, albums, [tmp_path / "table.json"])
    earlier = read_earlier(tmp_path / "table.json", plan)
    assert earlier.left_out == to_json(found)["left_out"] == found.left_out
    assert earlier.joined(replace(found, left_out={})).left_out == found.left_out
    none, _ = run_contest(plan, [ROWS["neg"]], tmp_path / "out", ui)
    assert (none.entries, none.left_out) == ((), found.left_out)
    assert earlier.joined(none).entries == earlier.entries
    now = replace(found.entries[0], id="neg")
    assert earlier.joined(replace(found, entries=(now,), left_out={})).left_out == {}
