"""Rows of the comparison, and the paired test between them."""

from dataclasses import replace
from pathlib import Path

import pytest
from policy_examples import plan_of
from scipy.stats import binom

from safediff.compare.entry import Entry, Measured, Setup, paired_tests
from safediff.compare.rows import ALL, DEFAULT, POLICY, QUICK, ROWS, choose
from safediff.erase.methods import METHODS, resolve
from safediff.erase.params import DistilParams
from safediff.errors import UsageError
from safediff.guard.params import PRESETS


def entry(id: str, hits: str) -> Entry:
    return Entry(
        id=id,
        title=id,
        checks={"erasure/all": Measured(estimate=0.5, lower=0.1, upper=0.9, n=len(hits))},
        verdict="pass",
        hits=tuple(hit == "x" for hit in hits),
        erase_seconds=1.0,
        erase_passes=10,
        passes_per_step=2,
    )


def test_every_row_names_what_exists() -> None:
    for row in ROWS.values():
        if row.guard is not None:
            assert row.guard in PRESETS
        if row.method is not None:
            assert row.preset in METHODS[row.method].presets
    guards = {row.guard for row in ROWS.values() if row.guard}
    assert guards == set(PRESETS)
    methods = {row.method for row in ROWS.values() if row.method}
    assert methods == set(METHODS)
    assert set(ALL) <= set(ROWS)
    assert set(QUICK) < set(DEFAULT) < set(ALL)


def test_base_and_policy_are_always_measured() -> None:
    assert [row.id for row in choose(["uce"])] == ["sd", "uce", POLICY]
    with pytest.raises(UsageError, match="no row 'uec'; did you mean 'uce'"):
        choose(["uec"])


def ids(folder: Path, erase: str, *names: str) -> list[str]:
    """The rows that a name stands for under a policy with such an eraser."""
    plan = plan_of(folder, ("keep:", f"erase: {erase}\nkeep:"))
    return [row.id for row in choose(names or ("all",), plan)]


def test_every_preset_of_every_method_has_a_row() -> None:
    rows = {(row.method, row.preset) for row in ROWS.values() if row.method}
    published = {(name, preset) for name, method in METHODS.items() for preset in method.presets}
    assert published - rows == {("esd-u", "eta-1")}


def test_sets_measure_no_model_twice(tmp_path: Path) -> None:
    both_readings = {"sdd-teacher", "sdd-student", "sdd-repo-teacher", "sdd-repo-student"}
    ours = set(ids(tmp_path, "{method: sdd, preset: safediff}"))
    assert set(ALL) - ours == {"sdd-safediff"}
    changed = "{method: sdd, preset: safediff, options: {num_steps: 9}}"
    assert set(ids(tmp_path, changed)) == set(ALL) >= both_readings
    # what the preset says anyway changes nothing
    same = "{method: sdd, preset: safediff, options: {num_steps: 256}}"
    assert set(ids(tmp_path, same)) == ours
    paper = set(ids(tmp_path, "{method: sdd, preset: paper}"))
    assert set(ALL) - paper == {"sdd-teacher", "sdd-student"}
    assert "sdd-safediff" in paper
    lean = "{trunk_dtype: bfloat16, gradient_checkpointing: true, micro_batch: 1, compile: true}"
    assert set(ids(tmp_path, f"{{method: sdd, preset: paper, options: {lean}}}")) == paper
    repo = set(ids(tmp_path, "{method: sdd, preset: repo}"))
    assert set(ALL) - repo == {"sdd-repo-teacher", "sdd-repo-student"}


def test_sets_have_settings_that_the_policys_eraser_knows(tmp_path: Path) -> None:
    uce = set(ALL) - set(ids(tmp_path, "{method: uce, preset: paper}"))
    # no moving average, nothing drawn at random, nothing trained
    assert uce == {"uce", "policy-student", "policy-seed"} | {
        *("policy-hardened", "policy-lora-4", "policy-lora-16")
    }
    # the noise on kept tokens and the centres of the empty prompt's have a seed
    speed = set(ALL) - set(ids(tmp_path, "{method: speed}"))
    assert speed == (uce - {"uce", "policy-seed"}) | {"speed"}
    seeded = set(ALL) - set(ids(tmp_path, "{method: speed, options: {seed: 3}}"))
    assert seeded == uce - {"uce"}
    esd = set(ALL) - set(ids(tmp_path, "{method: esd-u, preset: eta-3}"))
    assert esd == {"esd-u-3", "policy-student", "policy-hardened"} | {
        *("policy-lora-4", "policy-lora-16")
    }


def test_a_policy_with_a_guard_is_another_model(tmp_path: Path) -> None:
    guarded = "{method: sdd, preset: paper}\nguard: {name: neg}"
    assert set(ids(tmp_path, guarded)) == set(ALL)


def test_rows_that_are_named_are_measured(tmp_path: Path) -> None:
    paper = "{method: sdd, preset: paper}"
    assert ids(tmp_path, paper, "sdd-teacher") == ["sd", "sdd-teacher", POLICY]
    both = ids(tmp_path, paper, "all", "rece-nudity")
    assert [id for id in both if id not in ids(tmp_path, paper)] == ["rece-nudity"]
    assert ids(tmp_path, paper, "quick") == list(QUICK)


def test_a_row_holds_what_it_was_run_with() -> None:
    setup = Setup(method="sdd", preset="paper", knobs={"eta": 0.0}, seed=3, role="teacher")
    found = replace(entry("sdd-teacher", "x"), setup=setup).to_json()
    assert found["erase_seconds"] == 1.0
    assert {name: found[name] for name in ("method", "preset", "knobs", "seed", "role")} == {
        "method": "sdd",
        "preset": "paper",
        "knobs": {"eta": 0.0},
        "seed": 3,
        "role": "teacher",
    }
    assert "setup" not in found
    assert entry("sd", "x").to_json()["method"] is None


def test_the_policys_row_is_the_policys_eraser(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        ("keep:", "erase: {method: sdd, seed: 4, options: {num_steps: 7}}\nkeep:"),
    )
    own = ROWS[POLICY].erase_plan(plan)
    assert own == plan.erase
    other = ROWS["policy-seed"].erase_plan(plan)
    assert other == replace(plan.erase, seed=5)
    highest = replace(plan, erase=replace(plan.erase, seed=2**63 - 1))
    assert ROWS["policy-seed"].erase_plan(highest) == replace(plan.erase, seed=0)
    adapter = ROWS["policy-lora-4"].erase_plan(plan)
    assert adapter is not None
    assert adapter.options == {"num_steps": 7, "lora_rank": 4}
    published = ROWS["sdd-teacher"].erase_plan(plan)
    assert published is not None
    assert (published.preset, published.options, published.seed) == ("paper", {}, 4)
    assert published.keep == plan.erase.keep
    resolve(published.method, published.preset, published.options)
    assert ROWS["sd"].erase_plan(plan) is None
    assert ROWS["neg"].erase_plan(plan) is None


def test_rows_that_distil_take_the_policys_memory(tmp_path: Path) -> None:
    lean = {"trunk_dtype": "bfloat16", "micro_batch": 1, "offload": False}
    said = "{num_steps: 7, trunk_dtype: bfloat16, micro_batch: 1, offload: false}"
    plan = plan_of(tmp_path, ("keep:", f"erase: {{method: sdd, options: {said}}}\nkeep:"))
    for row in ROWS.values():
        found = row.erase_plan(plan)
        if found is None or row.own:
            continue
        params = resolve(found.method, found.preset, found.options)
        published = METHODS[found.method].presets[found.preset]
        if isinstance(published, DistilParams):
            assert params == replace(published, **lean), row.id
        else:
            assert params == published, row.id


def test_mcnemar_is_exact_and_adjusted() -> None:
    reference = entry(POLICY, "x" + "." * 11)
    worse, equal = entry("worse", "." + "x" * 9 + ".."), entry("equal", "x" + "." * 11)
    found = paired_tests(reference, [worse, equal])
    assert (found["worse"].only_other, found["worse"].only_reference) == (9, 1)
    raw = 2 * float(binom.cdf(1, 10, 0.5))
    assert found["worse"].p_value == pytest.approx(2 * raw)  # two rows, Holm
    assert found["equal"].p_value == 1.0
    with pytest.raises(ValueError, match="zip"):
        paired_tests(reference, [entry("short", "x")])
