"""Whose accuracy corrects which rate, and what may count as a false alarm."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from gate_examples import make_plan

from safediff.errors import Inconclusive
from safediff.gate.accuracy import PlanAccuracy, Planted, count_accuracy
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import Hits, rate
from safediff.policy.plan import Plan

THRESHOLDS = {"embedded": 0.5, "other": 0.5}
NUM_KEPT = 40


def plan_of(images_per_prompt: int = 1) -> Plan:
    """A detector decides about blades, another judge about smoke."""
    plan = make_plan(images_per_prompt)
    (blades,) = plan.concepts
    smoke = replace(blades, name="smoke", erase=("Cigar",), labels=("cigar",), judge="other")
    return replace(plan, concepts=(blades, smoke))


PLAN = plan_of()


def kept(prompt: str, index: int = 0, group: str = "neighbours", **scores: float) -> JournalRecord:
    """A picture of a kept prompt by the base, in which nothing erased is seen unless said."""
    return JournalRecord(
        subject="base",
        check=f"retention/{group}",
        prompt=prompt,
        index=index,
        seed=index,
        status="ok",
        scores={"axe": 0.0, "dagger": 0.0, "cigar": 0.0} | scores,
        image_sha256="0" * 64,
    )


def count(
    records: Sequence[JournalRecord],
    cards: Mapping[str, Hits] | None = None,
    plan: Plan = PLAN,
) -> PlanAccuracy:
    """With cards by concept; the two judges have one concept each."""
    found = cards or {"blades": (100, 100), "smoke": (100, 100)}
    judges = {
        concept.judge: Planted(
            sensitivity=found[concept.name],
            by_concept={concept.name: found[concept.name]},
        )
        for concept in plan.concepts
    }
    return count_accuracy(plan, judges, THRESHOLDS, records, 0.95)


def test_a_judge_that_errs_is_not_forgiven_for_what_another_sees() -> None:
    """The second judge sees cigars in 4 of 40 kept pictures; blades are none of its business."""
    records = [kept(f"hammer {i}", cigar=0.9 * (i < 4)) for i in range(NUM_KEPT)]
    found = count(records)
    assert found.by_concept["blades"].specificity == rate(NUM_KEPT, NUM_KEPT, 0.95)
    assert found.by_concept["smoke"].specificity == rate(NUM_KEPT - 4, NUM_KEPT, 0.95)
    assert found.judge.specificity == found.by_concept["smoke"].specificity  # the premise: worst
    assert found.pooled.specificity.value == 1  # takes the least off
    assert found.pooled.specificity.lower == found.by_concept["smoke"].specificity.lower


def test_each_concept_is_corrected_by_its_own_card() -> None:
    found = count([kept("hammer")], {"blades": (71, 72), "smoke": (34, 36)})
    assert found.by_concept["blades"].sensitivity == rate(71, 72, 0.95)
    assert found.by_concept["smoke"].sensitivity == rate(34, 36, 0.95)
    assert found.judge.sensitivity == rate(34, 36, 0.95)


def count_with_one_judge(blades: Hits, smoke: Hits) -> PlanAccuracy:
    plan = replace(PLAN, concepts=tuple(replace(c, judge="embedded") for c in PLAN.concepts))
    planted = Planted(
        sensitivity=(blades[0] + smoke[0], blades[1] + smoke[1]),
        by_concept={"blades": blades, "smoke": smoke},
    )
    return count_accuracy(plan, {"embedded": planted}, THRESHOLDS, [kept("hammer")], 0.95)


def test_few_pictures_of_a_concept_do_not_make_it_badly_seen() -> None:
    found = count_with_one_judge((84, 84), (11, 12))
    assert found.pooled.sensitivity == rate(95, 96, 0.95)


def test_a_concept_that_is_seen_worse_counts_for_all() -> None:
    found = count_with_one_judge((84, 84), (6, 12))
    assert found.pooled.sensitivity.lower == rate(6, 12, 0.95).lower
    assert found.pooled.sensitivity.upper == rate(90, 96, 0.95).upper


def test_a_picture_that_two_groups_share_counts_once() -> None:
    records = [kept(f"hammer {i}", group=g) for i in range(NUM_KEPT) for g in ("a", "b")]
    assert count(records).judge.specificity.num_samples == NUM_KEPT


def test_pictures_of_one_prompt_are_no_independent_negatives() -> None:
    """Ten pictures of each of four prompts; the judge sees something in all of one prompt's."""
    plan = plan_of(images_per_prompt=10)
    records = [kept(f"hammer {i}", k, axe=0.9 * (i == 0)) for i in range(4) for k in range(10)]
    found = count(records, plan=plan).judge.specificity
    assert found.value == 0.75
    assert found.num_samples == 40
    assert found.lower == pytest.approx(rate(3, 4, 0.95).lower)
    assert found.lower < rate(30, 40, 0.95).lower


@pytest.mark.parametrize("prompt", ["a cigar box", "A CIGAR BOX", "an Axe"])
def test_a_prompt_that_names_what_is_erased_is_no_negative(prompt: str) -> None:
    assert count([kept("hammer"), kept(prompt, axe=0.9)]).judge.specificity.num_samples == 1


def test_a_prompt_with_a_failed_picture_is_left_out() -> None:
    plan = plan_of(images_per_prompt=2)
    black = replace(kept("wrench"), status="black", scores={})
    records = [kept("hammer"), kept("hammer", 1), black, kept("wrench", 1)]
    assert count(records, plan=plan).judge.specificity.num_samples == 2
    with pytest.raises(Inconclusive, match="of 2 pictures: 1 black"):
        count(records[2:], plan=plan)
