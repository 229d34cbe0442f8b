"""How specific a judge can be proven to be is known from the kept prompts alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from policy_examples import findings, plan_of

from safediff.errors import Inconclusive
from safediff.gate.accuracy import Planted, count_accuracy
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import Estimate
from safediff.policy.negatives import unprovable_specificity
from safediff.policy.plan import HubPrompts, Plan

LIMIT = "min_specificity: 0.5"
ELSEWHERE = ("  judge: {min_specificity: 0.5}\n", "")


def specificity(plan: Plan) -> Estimate:
    """What the gate counts where the judges see nothing erased in any kept picture."""
    labels = [label for concept in plan.concepts for label in concept.labels]
    records = [
        JournalRecord(
            subject="base",
            check=f"retention/{group.name}",
            prompt=item.prompt,
            index=index,
            seed=index,
            status="ok",
            scores=dict.fromkeys(labels, 0.0) | dict.fromkeys(item.labels, 1.0),
            image_sha256="0" * 64,
        )
        for group in plan.verify.retention
        for item in group.prompts
        for index in range(plan.verify.sampling.images_per_prompt)
    ]
    deciding = {concept.judge for concept in plan.concepts}
    cards = {
        name: Planted((10, 10), {c.name: (10, 10) for c in plan.concepts if c.judge == name})
        for name in deciding
    }
    thresholds = dict.fromkeys(deciding | {group.judge for group in plan.verify.retention}, 0.5)
    confidence = plan.verify.erasure.confidence
    return count_accuracy(plan, cards, thresholds, records, confidence).judge.specificity


def test_too_few_kept_prompts_are_refused_at_the_limit(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, (LIMIT, "min_specificity: 0.95"))
    assert found == (
        "18:11: error: verify.judge.min_specificity: cannot be proven: no false alarm in 56 kept "
        "prompts bounds the judge's specificity at 0.948 (confidence 0.95); judge.min_specificity "
        "0.95 takes 59 prompts"
    )
    (found,) = findings(tmp_path, (LIMIT, "min_specificity: 1.0"))
    assert "no number of kept prompts proves a specificity of 1; 0.95 takes 59" in found


def test_the_default_is_refused_where_prompts_are_kept(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, ELSEWHERE)
    assert found.startswith("15:3: error: verify.retention: cannot be proven: no false alarm in 56")


def test_nothing_kept_proves_nothing(tmp_path: Path) -> None:
    near = "  retention:\n    - {name: near, min_ratio: 0.8, num_prompts: 14"
    near += ", texts: [hammer, wrench]}\n"
    far = "    - {name: far, min_ratio: 0.9, texts: {file: far.txt}}\n"
    (found,) = findings(tmp_path, (near, ""), (far, ""))
    assert "verify.judge.min_specificity: cannot be proven: no false alarm in 0 kept pro" in found


@pytest.mark.parametrize("minimum", ["0.947", "0.948"])
@pytest.mark.parametrize("images_per_prompt", [1, 3])
def test_refused_is_what_even_a_judge_without_false_alarms_does_not_reach(
    tmp_path: Path, minimum: str, images_per_prompt: int
) -> None:
    plan = plan_of(tmp_path)
    sampling = replace(plan.verify.sampling, images_per_prompt=images_per_prompt)
    verify = replace(plan.verify, sampling=sampling, judge_min_specificity=float(minimum))
    plan = replace(plan, verify=verify)
    reached = specificity(plan).lower >= float(minimum)
    assert (unprovable_specificity(plan.concepts, verify) is None) == reached
    assert reached == (minimum == "0.947")


def test_prompts_that_name_what_is_erased_do_not_count(tmp_path: Path) -> None:
    """As in the gate, however they are spelt; a prompt of two groups counts once."""
    with_axe = (
        "texts: [hammer, wrench]}",
        'texts: [hammer, wrench], templates: ["{text} {n}, AXE", "{text} {n}"], values: {n: '
        "['1', '2', '3', '4', '5', '6', '7']}}",
    )
    plan = plan_of(tmp_path, with_axe, ("num_prompts: 14", "num_prompts: 28"))
    assert specificity(plan).num_samples == 42 + 14
    edits = (with_axe, ("num_prompts: 14", "num_prompts: 28"), (LIMIT, "min_specificity: 0.95"))
    (found,) = findings(tmp_path, *edits)
    assert "no false alarm in 56 kept prompts" in found
    assert found.endswith("takes 59 prompts, beside the 14 that name what is erased")
    again = replace(plan.verify.retention[1], name="again")
    doubled = replace(plan.verify, retention=(*plan.verify.retention, again))
    strict = replace(doubled, judge_min_specificity=0.95)
    assert "in 56 kept prompts" in (unprovable_specificity(plan.concepts, strict) or "")


def test_what_is_fetched_later_counts_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    near = "{name: near, min_ratio: 0.8, num_prompts: 14, texts: [hammer, wrench]}"
    hub = "hub: {dataset: some/prompts, revision: main}"

    def group(count: int) -> tuple[str, str]:
        asked = f"judge: clip, num_prompts: {count}, {hub}"
        return near, f"{{name: near, min_ratio: 0.3, {asked}}}"

    strict = (LIMIT, "min_specificity: 0.95")
    plan = plan_of(tmp_path, group(10), strict)  # beside 49
    assert isinstance(plan.verify.retention[0].hub_prompts, HubPrompts)
    (found,) = findings(tmp_path, group(9), strict)
    assert "no false alarm in 58 kept prompts" in found


def test_fetched_prompts_are_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may name what is erased, which shows only now."""
    from safediff.workflow.hub_prompts import with_hub_prompts

    table = tmp_path / ("a" * 40) / "rows.csv"
    table.parent.mkdir()
    rows = [*(f"thing {i}" for i in range(9)), "a dagger"]
    table.write_text("prompt\n" + "\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr("safediff.workflow.hub_prompts.fetch", lambda *_: table.parent)
    near = "{name: near, min_ratio: 0.8, num_prompts: 14, texts: [hammer, wrench]}"
    hub = "judge: clip, num_prompts: 10, hub: {dataset: some/prompts, revision: main}"
    edits = [(near, f"{{name: near, min_ratio: 0.3, {hub}}}")]
    with_hub_prompts(plan_of(tmp_path, *edits, (LIMIT, "min_specificity: 0.94")))
    strict = plan_of(tmp_path, *edits, (LIMIT, "min_specificity: 0.95"))
    with pytest.raises(Inconclusive, match=r"calibration/specificity: .* in 58 kept prompts"):
        with_hub_prompts(strict)
