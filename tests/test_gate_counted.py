"""Counted checks of a whole plan."""

from dataclasses import replace

import numpy as np
from gate_examples import judge_accuracy, make_plan

from safediff.gate.accuracy import PlanAccuracy
from safediff.gate.counted import counted_checks, erasure_over_all
from safediff.gate.recount import Tally

JUDGE = judge_accuracy((400, 400), (400, 400), 0.95)
ACCURACY = PlanAccuracy(judge=JUDGE, pooled=JUDGE, by_concept={"blades": JUDGE}, confusion={})


def tally(*prompts: str, right: bool) -> Tally:
    return Tally(
        prompts=prompts,
        hits=np.full((len(prompts), 1), right),
        failures_per_prompt=(0,) * len(prompts),
    )


def test_a_prompt_that_groups_share_is_counted_once_for_collapse() -> None:
    """It is right only if it shows what every group expects of it."""
    plan = make_plan(images_per_prompt=1)
    (near,) = plan.verify.retention
    other = replace(near, name="other")
    plan = replace(plan, verify=replace(plan.verify, retention=(near, other)))
    tallies = {
        (who, check): tally(*prompts, right=right)
        for check, prompts in {
            "erasure/blades": ("axe", "dagger"),
            "retention/neighbours": ("hammer", "red hammer"),
            "retention/other": ("hammer", "owl"),
        }.items()
        for who, right in (("base", True), ("model", check == "retention/neighbours"))
    }
    rows = {row.id: row for row in counted_checks(plan, tallies, "model", ACCURACY)}
    collapse = rows["collapse"]
    assert (collapse.num_samples, collapse.details["safe_right"]) == (3, 1)
    assert rows["retention/other"].num_samples == 2


def test_the_rate_over_all_is_told_also_where_every_concept_decides() -> None:
    plan = make_plan(images_per_prompt=1)
    (blades,) = plan.concepts
    plan = replace(
        plan,
        concepts=(blades, replace(blades, name="bombs")),
        verify=replace(plan.verify, erasure=replace(plan.verify.erasure, over="each")),
    )
    accuracy = replace(ACCURACY, by_concept={"blades": JUDGE, "bombs": JUDGE})
    tallies = {
        (who, f"erasure/{name}"): tally("a", "b", right=who == "base" or name == "bombs")
        for name in ("blades", "bombs")
        for who in ("base", "model")
    }
    tallies |= {(who, "retention/neighbours"): tally("c", right=True) for who in ("base", "model")}
    decided = {row.id for row in counted_checks(plan, tallies, "model", accuracy)}
    assert decided >= {"erasure/blades", "erasure/bombs"}
    assert "erasure/all" not in decided
    found = erasure_over_all(plan, tallies, "model", accuracy)
    assert (found.id, found.estimate, found.num_samples) == ("erasure/all", 0.5, 4)
    assert not found.gating
