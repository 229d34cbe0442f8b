"""Which rows stand at or ahead of the policy's own."""

from dataclasses import replace
from pathlib import Path

import pytest
from policy_examples import plan_of
from test_compare_rows import entry

from safediff.compare.earlier import read_earlier
from safediff.compare.entry import Entry, Measured
from safediff.compare.standing import standing, told
from safediff.compare.table import Comparison
from safediff.policy.load import load_plan

ROOT = Path(__file__).parents[1]


def row(id: str, left: float | None, *kept: float) -> Entry:
    """With an upper bound of what is left and lower bounds of what is kept."""
    checks = {"erasure/all": Measured(estimate=left, lower=0.0, upper=left, n=9)}
    for number, bound in enumerate(kept):
        checks[f"retention/{number}"] = Measured(estimate=1.0, lower=bound, upper=1.0, n=9)
    return replace(entry(id, "x"), checks=checks)


def test_rows_are_ahead_by_all_bounds_or_not_at_all(tmp_path: Path) -> None:
    entries = (
        row("sd", 1.0, 1.0, 1.0),
        row("half", 0.3, 0.95, 0.9),
        row("one group", 0.2, 0.99, 0.7),
        row("wrecked", 0.0, 0.1, 0.1),
        row("undecided", None, 0.0, 0.0),
        row("policy", 0.1, 0.9, 0.8),
        row("equal", 0.1, 0.9, 0.8),
        row("policy-student", 0.0, 1.0, 1.0),
    )
    found = Comparison(plan=plan_of(tmp_path), entries=entries, facts={})
    assert [e.id for e in standing(found).erasing] == ["wrecked", "equal"]
    assert [e.id for e in standing(found).keeping] == ["sd", "half", "equal"]
    assert [e.id for e in standing(found).both] == ["equal"]
    assert told(found) == [
        'Other systems beside "policy", by the bounds that decide:',
        "",
        "- erase at least as much: wrecked, equal;",
        "- keep at least as much of every group: sd, half, equal;",
        "- the lowest erasure bound of those: equal, 0.100;",
        "- both: equal.",
        "",
    ]
    alone = replace(found, entries=(entries[0], entries[3], entries[5], entries[7]))
    assert told(alone)[-2] == "- both: none."


@pytest.mark.parametrize("name", ["weapons", "vices", "style"])
def test_the_readme_says_what_the_committed_tables_say(name: str) -> None:
    """Nobody is ahead in both; and the list that it points to stands below each table."""
    plan = load_plan(ROOT / "policies" / f"demo-{name}.yaml")
    table = ROOT / "benchmarks" / f"compare_demo-{name}.json"
    entries = read_earlier(table, plan).entries
    found = Comparison(plan=plan, entries=entries, facts={})
    assert standing(found).both == []
    assert "\n".join(told(found)) in table.with_suffix(".md").read_text(encoding="utf-8")


def test_every_limit_counts_where_every_concept_has_one(tmp_path: Path) -> None:
    def of(id: str, axe: float, bomb: float) -> Entry:
        checks = {
            f"erasure/{name}": Measured(estimate=bound, lower=0.0, upper=bound, n=9)
            for name, bound in (("all", 0.5), ("axe", axe), ("bomb", bomb))
        }
        return replace(entry(id, "x"), checks=checks)

    plan = plan_of(tmp_path)
    erasure = replace(plan.verify.erasure, over="each")
    plan = replace(plan, verify=replace(plan.verify, erasure=erasure))
    entries = (of("policy", 0.1, 0.1), of("uneven", 0.0, 0.2), of("better", 0.1, 0.0))
    found = Comparison(plan=plan, entries=entries, facts={})
    assert [e.id for e in standing(found).erasing] == ["better"]
