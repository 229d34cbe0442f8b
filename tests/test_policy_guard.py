"""The guard of a policy: names, texts, cost, and what is refused."""

from pathlib import Path

import pytest
from policy_examples import findings, plan_of

from safediff.policy.cost import estimate_cost
from safediff.policy.plan import GuardPlan

NAMES = (
    "'neg', 'sld-weak', 'sld-weak-200', 'sld-medium', 'sld-strong', 'sld-max', 'sega', "
    "'sega-medium', 'sega-strong' or 'sega-max'"
)


def with_guard(text: str) -> tuple[str, str]:
    """The example's line 12, after its concepts."""
    return "keep:", f"guard: {text}\nkeep:"


def test_no_guard_by_default(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.guard is None
    assert "guard" not in plan.to_json()
    assert not any("guard" in note for note in plan.notes)


def test_texts_default_to_all_erase_texts(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_guard("{name: sld-medium}"))
    assert plan.guard == GuardPlan(name="sld-medium", texts=("kitchen knife", "dagger", "axe"))
    assert plan.to_json()["guard"]["name"] == "sld-medium"
    hashes = {plan_of(tmp_path, with_guard(f"{{name: {n}}}")).sha256 for n in ("neg", "sega")}
    assert len({plan.sha256, plan_of(tmp_path).sha256, *hashes}) == 4


def test_texts_of_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_guard("{name: sega, texts: [blade, sharp edge, blade]}"))
    assert plan.guard == GuardPlan(name="sega", texts=("blade", "sharp edge"))


@pytest.mark.parametrize(("name", "cost"), [("neg", 2), ("sld-max", 3), ("sega", 5)])
def test_a_note_tells_the_cost_and_the_condition(tmp_path: Path, name: str, cost: int) -> None:
    plan = plan_of(tmp_path, with_guard(f"{{name: {name}}}"))
    assert (
        f"guard '{name}' steers every model but the base: {cost} UNet passes a picture and step "
        "instead of 2; the verdict holds only where the model is sampled with it"
    ) in plan.notes


LONG = "[" + ", ".join(f"long word number {i}" for i in range(13)) + "]"


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        (
            "{name: sld-medum}",
            f"12:9: error: guard.name: expected {NAMES}, got text 'sld-medum'; "
            "did you mean 'sld-medium'?",
        ),
        ("{nam: neg}", "12:9: error: guard.nam: unknown key 'nam'; did you mean 'name'?"),
        ("{texts: [blade]}", "12:1: error: guard.name: missing key 'name'"),
        ("neg", "12:1: error: guard: expected keys, got text 'neg'"),
        ("{name: neg, texts: []}", "12:20: error: guard.texts: must not be empty"),
        (
            "{name: neg, texts: [blade, a boy]}",
            "12:35: error: guard.texts.1: 'boy' can denote a minor; texts about minors are refused",
        ),
        (
            f"{{name: sld-weak, texts: {LONG}}}",
            "12:25: error: guard.texts: a branch of the guard has 52 words, about 78 tokens; the "
            "text encoder reads 75 and would drop the rest without a word",
        ),
    ],
)
def test_refusals(tmp_path: Path, guard: str, expected: str) -> None:
    assert expected in findings(tmp_path, with_guard(guard))


def test_sega_reads_every_text_on_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, with_guard(f"{{name: sega, texts: {LONG}}}"))
    assert plan.guard is not None
    assert len(plan.guard.texts) == 13


def test_cost_counts_the_guards_branches(tmp_path: Path) -> None:
    plain = plan_of(tmp_path)
    per_model = plain.verify.num_images(len(plain.concepts))
    num_texts = sum(len(concept.erase) for concept in plain.concepts)
    models = 1 + len(plain.export.targets)  # the base is not guarded
    for name, more in (("neg", 0), ("sld-max", 1), ("sega", num_texts)):
        guarded = plan_of(tmp_path, ("keep:", f"guard: {{name: {name}}}\nkeep:"))
        added = estimate_cost(guarded).verify_passes - estimate_cost(plain).verify_passes
        assert added == more * per_model * models * plain.verify.sampling.num_steps


def test_without_guidance_there_is_nothing_to_steer(tmp_path: Path) -> None:
    few = ("verify:", "verify:\n  sampling: {num_steps: 2, guidance_scale: 1.0}")
    found = findings(tmp_path, with_guard("{name: neg}"), few)
    assert any("guard: a guard steers guidance, and verify.samp" in line for line in found)


def test_without_guidance_a_picture_takes_one_pass_a_step(tmp_path: Path) -> None:
    few = ("verify:", "verify:\n  sampling: {num_steps: 4, guidance_scale: 0.0}")
    usual = ("verify:", "verify:\n  sampling: {num_steps: 4, guidance_scale: 2.0}")
    one, two = (estimate_cost(plan_of(tmp_path, edit)).verify_passes for edit in (few, usual))
    assert 2 * one == two
    rolling = "erase: {method: sdd, preset: paper, options: {guidance_scale: %s}}\nkeep:"
    none, some = (
        estimate_cost(plan_of(tmp_path, ("keep:", rolling % scale))).erase_passes
        for scale in ("0.0", "3.0")
    )
    losses = 4 * 1300
    assert 2 * (none - losses) == some - losses
