"""Rows of the comparison, and the paired test between them."""

from dataclasses import replace
from pathlib import Path

import pytest
from policy_examples import plan_of
from scipy.stats import binom

from safediff.compare.entry import Entry, Measured, paired_tests
from safediff.compare.rows import DEFAULT, POLICY, QUICK, ROWS, choose
from safediff.erase.methods import METHODS, resolve
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
    assert set(DEFAULT) <= set(ROWS)
    assert set(QUICK) <= set(DEFAULT)


def test_base_and_policy_are_always_measured() -> None:
    assert [row.id for row in choose(["uce"])] == ["sd", "uce", POLICY]
    with pytest.raises(UsageError, match="no row 'uec'; did you mean 'uce'"):
        choose(["uec"])


def test_the_policys_row_is_the_policys_eraser(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        ("keep:", "erase: {method: sdd, seed: 4, options: {num_steps: 7}}\nkeep:"),
    )
    own = ROWS[POLICY].erase_plan(plan)
    assert own == plan.erase
    other = ROWS["policy-seed"].erase_plan(plan)
    assert other == replace(plan.erase, seed=5)
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
