"""Effective sample sizes of clustered pictures."""

import numpy as np
import pytest

from safediff.gate.clusters import (
    clustered_pairs,
    clustered_rate,
    clustered_ratio,
    effective_n,
    intraclass_correlation,
)
from safediff.gate.stats import rate_lower, rate_upper


def test_identical_pictures_count_as_one() -> None:
    assert effective_n([5, 0, 5, 0, 0], 5) == pytest.approx(5)


def test_independent_pictures_count_each() -> None:
    hits = np.random.default_rng(0).binomial(4, 0.3, size=2000)
    assert effective_n(hits.tolist(), 4) > 0.95 * 8000


@pytest.mark.parametrize("hits", [[0] * 20, [5] * 20])
def test_prompts_are_counted_where_nothing_can_be_estimated(hits: list[int]) -> None:
    assert effective_n(hits, 5) == 20


def test_one_picture_per_prompt_needs_no_correction() -> None:
    assert effective_n([0, 1, 0, 1], 1) == 4


def test_correlation_matches_its_textbook_formula() -> None:
    values = np.random.default_rng(1).normal(size=(30, 1)) + np.random.default_rng(2).normal(
        size=(30, 4)
    )
    between = 4 * values.mean(axis=1).var(ddof=1)
    within = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum() / (30 * 3)
    assert intraclass_correlation(values) == pytest.approx(
        (between - within) / (between + 3 * within)
    )


def test_plain_samples_give_the_plain_bounds() -> None:
    found = clustered_rate([0, 1, 0, 0, 1] * 10, 1, 0.95)
    assert found.upper == rate_upper(20, 50, 0.95)
    assert found.lower == rate_lower(20, 50, 0.95)


def test_no_hit_on_few_prompts_proves_little() -> None:
    found = clustered_rate([0] * 20, 10, 0.95)
    assert found.upper == rate_upper(0, 20, 0.95)
    assert found.num_samples == 200


def test_a_first_hit_never_helps() -> None:
    none = clustered_rate([0] * 20, 10, 0.95)
    one = clustered_rate([1] + [0] * 19, 10, 0.95)
    assert one.upper >= none.upper
    every = clustered_rate([10] * 20, 10, 0.95)
    all_but_one = clustered_rate([9] + [10] * 19, 10, 0.95)
    assert all_but_one.lower <= every.lower


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="no prompts"):
        clustered_rate([], 1, 0.95)


def test_cells_are_told_apart() -> None:
    base = np.array([[True], [True], [False], [False], [True]])
    safe = np.array([[True], [False], [True], [False], [True]])
    assert tuple(clustered_pairs(base, safe)) == (2, 1, 1, 1)


def test_clustered_losses_widen_the_ratio() -> None:
    rng = np.random.default_rng(3)
    scattered = rng.random((40, 5)) > 0.2
    clumped = np.repeat(rng.random((40, 1)) > 0.2, 5, axis=1)
    base = np.ones((40, 5), dtype=bool)
    assert clustered_pairs(base, clumped).total == pytest.approx(40)
    assert clustered_pairs(base, scattered).total > 150


def test_a_ratio_without_losses_counts_prompts() -> None:
    base = np.ones((30, 4), dtype=bool)
    assert clustered_ratio(base, base, 0.95).lower == pytest.approx(0.05 ** (1 / 30))
    one_loss = base.copy()
    one_loss[0, 0] = False
    assert clustered_ratio(base, one_loss, 0.95).lower <= clustered_ratio(base, base, 0.95).lower
