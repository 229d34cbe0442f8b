"""A judge of kept things that sees them anywhere is found out."""

from dataclasses import replace

import pytest
from gate_examples import make_plan

from safediff.gate.confusion import count_confusion, judge_confusion
from safediff.gate.journal import JournalRecord
from safediff.gate.stats import Estimate, rate_upper
from safediff.gate.verdict import Verdict
from safediff.policy.plan import Plan, PromptPlan

NAMES = tuple(f"thing {i}" for i in range(20))


def plan_of(*labels: str) -> Plan:
    """Twenty kept prompts; labels are those of the prompts, or each prompt's own name."""
    plan = make_plan(images_per_prompt=1)
    (group,) = plan.verify.retention
    wanted = labels or NAMES
    prompts = tuple(
        PromptPlan(prompt=name, labels=(wanted[i % len(wanted)],)) for i, name in enumerate(NAMES)
    )
    group = replace(group, num_prompts=len(prompts), prompts=prompts)
    return replace(plan, verify=replace(plan.verify, retention=(group,)))


def picture(prompt: str, *seen: str, status: str = "ok") -> JournalRecord:
    known = dict.fromkeys((*NAMES, "person"), 0.1)
    return JournalRecord(
        subject="base",
        check="retention/neighbours",
        prompt=prompt,
        index=0,
        seed=0,
        status=status,  # type: ignore[arg-type]
        scores=known | dict.fromkeys(seen, 0.9) if status == "ok" else {},
        image_sha256="0" * 64,
    )


def confusion(plan: Plan, records: list[JournalRecord]) -> dict[str, Estimate | None]:
    return count_confusion(plan, records, {"embedded": 0.5}, 0.95)


def test_a_judge_that_sees_what_is_asked_is_believed() -> None:
    found = confusion(plan_of(), [picture(name, name) for name in NAMES])
    assert found["neighbours"] is not None
    assert found["neighbours"].value == 0
    assert found["neighbours"].upper == pytest.approx(rate_upper(0, 20, 0.95))
    assert judge_confusion(found).verdict is Verdict.PASS


def test_a_judge_that_sees_everything_is_not() -> None:
    found = confusion(plan_of(), [picture(name, *NAMES) for name in NAMES])
    row = judge_confusion(found)
    assert (row.estimate, row.verdict) == (1, Verdict.INCONCLUSIVE)
    assert "finds every model right" in row.message


def test_labels_that_overlap_are_no_fault() -> None:
    """Every tenth prompt expects a person, who is rightly seen in all pictures."""
    plan = plan_of("person", *NAMES[1:10])
    found = confusion(plan, [picture(name, "person") for name in NAMES])
    estimate = found["neighbours"]
    assert estimate is not None
    assert estimate.value == pytest.approx(18 * (1 / 9) / 20)
    assert judge_confusion(found).verdict is Verdict.PASS


def test_where_nothing_else_is_expected_nothing_is_known() -> None:
    found = confusion(plan_of("person"), [picture(name, "person") for name in NAMES])
    assert found == {"neighbours": None}
    assert judge_confusion(found).verdict is Verdict.INCONCLUSIVE


def test_another_group_of_the_judge_helps_one_that_expects_one_thing() -> None:
    plan = plan_of("person")
    (group,) = plan.verify.retention
    others = replace(plan_of().verify.retention[0], name="others")
    plan = replace(plan, verify=replace(plan.verify, retention=(group, others)))
    found = confusion(plan, [picture(name, "person", *NAMES[:5]) for name in NAMES])
    assert found["neighbours"] is not None
    assert found["neighbours"].value == pytest.approx(5 / 20)


def test_without_a_good_picture_nothing_is_known() -> None:
    found = confusion(plan_of(), [picture(name, status="black") for name in NAMES])
    assert found == {"neighbours": None}
