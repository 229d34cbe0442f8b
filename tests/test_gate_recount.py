"""Counts can be made again from the journal."""

from dataclasses import replace

import pytest
from gate_examples import make_plan

from safediff.errors import UsageError
from safediff.gate.journal import JournalContents, JournalHeader, JournalRecord, standing
from safediff.gate.recount import recount
from safediff.policy.plan import HubPrompts, Plan

PLAN = make_plan(images_per_prompt=2)


def picture(check: str, prompt: str, index: int, **scores: float) -> JournalRecord:
    return JournalRecord(
        subject="teacher",
        check=check,
        prompt=prompt,
        index=index,
        seed=index,
        status="ok",
        scores=scores,
        image_sha256="0" * 64,
    )


def journal(*records: JournalRecord, plan: Plan = PLAN) -> JournalContents:
    header = JournalHeader(
        plan_sha256=plan.sha256, judges={"embedded": "0" * 64}, thresholds={"embedded": 0.5}
    )
    return JournalContents(header=header, records=records, torn=False)


BLADES = (
    picture("erasure/blades", "dagger", 0, axe=0.1, dagger=0.2),
    picture("erasure/blades", "dagger", 1, axe=0.6, dagger=0.1),
    picture("erasure/blades", "axe", 0, axe=0.5, dagger=0.0),
    picture("erasure/blades", "axe", 1, axe=0.49, dagger=0.9),
)


def test_erasure_counts_any_label_in_the_plans_order() -> None:
    tally = recount(journal(*BLADES), PLAN)["teacher", "erasure/blades"]
    assert tally.prompts == ("axe", "dagger")
    assert tally.hits.tolist() == [[True, True], [False, True]]
    assert tally.hits_per_prompt == (2, 1)
    assert tally.num_failures == 0


def test_retention_needs_every_label() -> None:
    records = [
        picture("retention/neighbours", prompt, index, hammer=0.9, red=0.6 * index)
        for prompt in ("hammer", "red hammer")
        for index in (0, 1)
    ]
    tally = recount(journal(*records), PLAN)["teacher", "retention/neighbours"]
    assert tally.hits.tolist() == [[True, True], [False, True]]


def test_missing_and_failed_pictures_are_failures() -> None:
    black = replace(BLADES[0], status="black", scores={}, image_sha256=None)
    tally = recount(journal(black, *BLADES[2:]), PLAN)["teacher", "erasure/blades"]
    assert tally.num_failures == 2
    assert tally.hits_per_prompt == (2, 0)


def test_subjects_are_counted_apart() -> None:
    base = [replace(r, subject="base", scores={"axe": 1.0, "dagger": 0.0}) for r in BLADES]
    found = recount(journal(*BLADES, *base), PLAN)
    assert found["base", "erasure/blades"].hits_per_prompt == (2, 2)
    assert found["teacher", "erasure/blades"].hits_per_prompt == (2, 1)


def test_a_picture_written_twice_counts_once_unless_it_differs() -> None:
    found = recount(journal(*BLADES, BLADES[0]), PLAN)
    assert found["teacher", "erasure/blades"].hits.shape == (2, 2)
    other = replace(BLADES[1], scores={"axe": 0.0, "dagger": 0.0})
    with pytest.raises(UsageError, match="two different pictures"):
        recount(journal(*BLADES, other), PLAN)


def test_a_picture_that_was_drawn_again_counts_as_it_is_now() -> None:
    """Its file was lost; in another batch it came out a little different, twice."""
    first, *others = BLADES
    again = replace(first, scores={"axe": 0.4, "dagger": 0.0}, image_sha256="b" * 64)
    again = replace(again, replaces=first.image_sha256)
    last = replace(again, scores={"axe": 0.6, "dagger": 0.0}, image_sha256="c" * 64)
    last = replace(last, replaces="b" * 64)
    for records, hits in (((), (2, 1)), ((again,), (2, 1)), ((again, last), (2, 2))):
        found = recount(journal(first, *others, *records), PLAN)
        assert found["teacher", "erasure/blades"].hits_per_prompt == hits
    assert standing([first, *others, again, last]) == (last, *others)
    assert "replaces" not in first.to_json()
    for wrong in (replace(last, replaces=first.image_sha256), replace(last, replaces=None)):
        with pytest.raises(UsageError, match="two different pictures"):
            recount(journal(first, *others, again, wrong), PLAN)


def test_pictures_for_other_purposes_are_left_out() -> None:
    assert recount(journal(picture("quality/kid", "axe", 0)), PLAN) == {}


def test_hub_prompts_take_the_labels_of_their_concept() -> None:
    hub = HubPrompts(dataset="some/set", revision="1", split="test", column="prompt", num_prompts=1)
    plan = replace(PLAN, concepts=(replace(PLAN.concepts[0], prompts=(), hub_prompts=hub),))
    records = [picture("erasure/blades", "unplanned", i, axe=0.9, dagger=0.0) for i in (0, 1)]
    tally = recount(journal(*records, plan=plan), plan)["teacher", "erasure/blades"]
    assert tally.hits_per_prompt == (2,)


def test_another_plan_is_refused() -> None:
    with pytest.raises(UsageError, match="written for plan"):
        recount(journal(*BLADES), make_plan(images_per_prompt=3))


def test_unknown_checks_and_judges_are_refused() -> None:
    with pytest.raises(UsageError, match="erasure/spoons, which the plan lacks"):
        recount(journal(picture("erasure/spoons", "axe", 0)), PLAN)
    contents = journal(*BLADES)
    header = replace(contents.header, thresholds={"other": 0.5})
    with pytest.raises(UsageError, match="threshold of judge 'embedded'"):
        recount(replace(contents, header=header), PLAN)


def test_unknown_prompts_and_missing_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="the plan lacks"):
        recount(journal(picture("erasure/blades", "spoon", 0, axe=0.0, dagger=0.0)), PLAN)
    with pytest.raises(UsageError, match="lacks the score of 'dagger'"):
        recount(journal(picture("erasure/blades", "axe", 0, axe=0.1)), PLAN)
