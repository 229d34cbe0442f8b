"""What a comparison is expected to cost, against what one did cost."""

from pathlib import Path

import pytest
from policy_examples import plan_of

from safediff.compare.cost import comparison_cost
from safediff.compare.rows import POLICY, ROWS, choose
from safediff.policy.cost import SD1_PASS_FLOPS, estimate_cost, gpu_hours


def test_rows_cost_what_their_parts_cost(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    found = {cost.row.id: cost for cost in comparison_cost(plan, list(ROWS.values()))}
    images = plan.verify.num_images(len(plan.concepts))
    per_branch = images * plan.verify.sampling.num_steps
    assert found["sd"][1:] == (0, 2 * per_branch)
    assert found["neg"][1:] == (0, 2 * per_branch)
    assert found["sld-max"].draw == 3 * per_branch
    num_texts = sum(len(concept.erase) for concept in plan.concepts)
    assert found["sega"].draw == (2 + num_texts) * per_branch
    assert found[POLICY].erase == estimate_cost(plan).erase_passes > 0
    assert found["uce"].erase == 0
    # 1300 steps, each with 24.5 rollout steps of two branches, two targets and a step that counts 3
    assert found["sdd-teacher"].erase == pytest.approx(1300 * (2 * 24.5 + 4), rel=0.01)


def test_rows_of_the_policy_are_drawn_behind_its_guard(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ("keep:", "guard: {name: sega}\nkeep:"))
    assert plan.guard is not None
    found = {cost.row.id: cost for cost in comparison_cost(plan, list(ROWS.values()))}
    per_branch = plan.verify.num_images(len(plan.concepts)) * plan.verify.sampling.num_steps
    for id in (POLICY, "policy-student"):
        assert found[id].draw == (2 + len(plan.guard.texts)) * per_branch
    for id in ("sd", "neg", "uce", "sdd-teacher"):
        assert found[id].draw == 2 * per_branch


def test_a_patch_that_two_rows_share_is_paid_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    costs = {c.row.id: c for c in comparison_cost(plan, choose(["sdd-teacher", "sdd-student"]))}
    assert costs["sdd-teacher"].erase > 0 == costs["sdd-student"].erase


def test_without_kept_texts_all_rows_of_a_batch_are_erased(tmp_path: Path) -> None:
    kept, none = plan_of(tmp_path), plan_of(tmp_path, ("keep: [banana, hammer, dagger, rose]", ""))
    found = [estimate_cost(plan).erase_passes for plan in (kept, none)]
    # 256 steps of 24 rows, of which 0.7 were kept: the original is asked about each one more time
    assert found[1] - found[0] == pytest.approx(256 * 24 * 0.7, abs=1)
    assert [comparison_cost(none, [ROWS[POLICY]])[0].erase] == found[1:]


def test_hours_follow_passes() -> None:
    assert gpu_hours(126_000) == pytest.approx(1.0)
    assert gpu_hours(126_000, 2 * SD1_PASS_FLOPS) == pytest.approx(2.0)


def test_rows_of_the_policy_are_called_after_its_eraser(tmp_path: Path) -> None:
    ours = plan_of(tmp_path, ("keep:", "erase: {method: sdd, preset: safediff}\nkeep:"))
    assert ROWS[POLICY].title_for(ours) == "SDD (ours), teacher"
    published = plan_of(tmp_path, ("keep:", "erase: {method: sdd, preset: paper}\nkeep:"))
    assert ROWS[POLICY].title_for(published) == "SDD (paper), teacher"
    assert ROWS["uce"].title_for(published) == "UCE"
