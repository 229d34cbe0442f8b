"""Rows of an earlier comparison in a later one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from policy_examples import plan_of
from test_compare_rows import entry

from safediff.compare.earlier import EARLIER, entry_of, read_earlier
from safediff.compare.entry import Setup
from safediff.compare.markdown import markdown
from safediff.compare.table import Comparison, to_json
from safediff.errors import UsageError
from safediff.policy.load import load_plan

ROOT = Path(__file__).parents[1]
FACTS = {"base": "embedded, UNet 1", "judge": "embedded, weights 2"}


def comparison(folder: Path, *ids: str, **facts: str) -> Comparison:
    entries = tuple(entry(id, "x.x") for id in ids)
    return Comparison(plan=plan_of(folder), entries=entries, facts={**FACTS, **facts})


def written(folder: Path, *ids: str) -> Path:
    path = folder / "table.json"
    path.write_text(json.dumps(to_json(comparison(folder, *ids))))
    return path


def test_a_row_is_read_as_it_was_written() -> None:
    setup = Setup(method="uce", preset="paper", knobs={"ridge": 0.5}, seed=3, threads=2)
    before = replace(entry("uce", "x..x"), setup=setup)
    assert entry_of(before.to_json()) == before
    older = {k: v for k, v in before.to_json().items() if k not in ("method", "knobs", "threads")}
    assert entry_of(older).setup == replace(setup, method=None, knobs={}, threads=0)


def test_rows_of_now_count_and_stand_in_order(tmp_path: Path) -> None:
    earlier = read_earlier(written(tmp_path, "sd", "uce", "policy"), plan_of(tmp_path))
    assert earlier.has("uce")
    assert not earlier.has("neg")
    now = comparison(tmp_path, "neg", "uce")
    measured = replace(now, entries=(now.entries[0], replace(now.entries[1], erase_passes=7)))
    joined = earlier.joined(measured)
    assert [e.id for e in joined.entries] == ["sd", "neg", "uce", "policy"]
    assert joined.entries[2].erase_passes == 7
    assert joined.facts[EARLIER] == "sd, policy"
    assert set(joined.tests) == {"sd", "neg", "uce"}
    everything = earlier.joined(comparison(tmp_path, "sd", "uce", "policy"))
    assert EARLIER not in everything.facts


@pytest.mark.parametrize("fact", ["base", "judge"])
def test_another_base_or_judge_is_refused(tmp_path: Path, fact: str) -> None:
    earlier = read_earlier(written(tmp_path, "sd", "policy"), plan_of(tmp_path))
    other = comparison(tmp_path, "neg", **{fact: "another"})
    with pytest.raises(UsageError, match=f"measured with {fact} embedded, .*, not with another"):
        earlier.joined(other)


def test_another_plan_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "sd", "policy")
    other = plan_of(tmp_path, ("min_ratio: 0.8", "min_ratio: 0.7"))
    with pytest.raises(UsageError, match=r"a comparison of plan .*, the policy's is"):
        read_earlier(path, other)


@pytest.mark.parametrize(
    "broken", ["", "[]", "{}", '{"rows": [{}], "plan_sha256": "", "facts": {}}']
)
def test_what_is_no_comparison_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(broken)
    with pytest.raises(UsageError, match="not the JSON of a comparison"):
        read_earlier(path, plan_of(tmp_path))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").glob("compare_*.json")), ids=lambda p: p.stem
)
def test_committed_comparisons_can_be_added_to(path: Path) -> None:
    """They are of the policies as they are shipped."""
    policy = path.stem.removeprefix("compare_").partition("_")[0]
    earlier = read_earlier(path, load_plan(ROOT / "policies" / f"{policy}.yaml"))
    assert earlier.has("policy")


def test_rows_say_what_they_were_measured_with(tmp_path: Path) -> None:
    """What they have in common with the last run is not said again."""
    facts = {"torch": "2", "device": "cpu"}
    now, before = comparison(tmp_path, "neg", "policy", **facts), comparison(tmp_path, "sd", "uce")
    setups = {
        "neg": {**facts, "date": "2026-02-02"},
        "policy": {**facts, "date": "2026-02-02"},
        "sd": {"torch": "1", "device": "cpu", "date": "2026-01-01"},
        "uce": {},
    }
    entries = [
        replace(entry, setup=Setup(made_with=setups[entry.id]))
        for entry in (*now.entries, *before.entries)
    ]
    lines = markdown(replace(now, entries=tuple(entries))).splitlines()
    assert "- rows neg, policy: measured 2026-02-02" in lines
    assert "- rows sd: measured 2026-01-01, torch 1" in lines
    assert "- rows uce: measured on a day that was not noted, like the versions" in lines
