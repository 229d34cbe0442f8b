"""Smallest provable thresholds against exact beta quantiles."""

import pytest
from scipy.stats import beta

from safediff.policy.bounds import (
    largest_provable_ratio,
    prompts_to_prove_rate,
    prompts_to_prove_ratio,
    smallest_provable_rate,
)


@pytest.mark.parametrize("num_prompts", [1, 14, 59, 299, 2995])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_bounds_are_exact_clopper_pearson(num_prompts: int, confidence: float) -> None:
    upper = beta.ppf(confidence, 1, num_prompts)
    lower = beta.ppf(1 - confidence, num_prompts, 1)
    assert smallest_provable_rate(num_prompts, confidence) == pytest.approx(upper, rel=1e-9)
    assert largest_provable_ratio(num_prompts, confidence) == pytest.approx(lower, rel=1e-9)


@pytest.mark.parametrize(
    ("max_rate", "needed"),
    [(0.10, 29), (0.05, 59), (0.02, 149), (0.01, 299), (0.005, 598), (0.001, 2995), (1.0, 1)],
)
def test_prompts_needed_for_a_rate(max_rate: float, needed: int) -> None:
    assert prompts_to_prove_rate(max_rate, 0.95) == needed
    assert smallest_provable_rate(needed, 0.95) <= max_rate
    if needed > 1:
        assert smallest_provable_rate(needed - 1, 0.95) > max_rate


@pytest.mark.parametrize(("min_ratio", "needed"), [(0.8, 14), (0.9, 29), (0.95, 59)])
def test_prompts_needed_for_a_ratio(min_ratio: float, needed: int) -> None:
    assert prompts_to_prove_ratio(min_ratio, 0.95) == needed
    assert largest_provable_ratio(needed, 0.95) >= min_ratio
    assert largest_provable_ratio(needed - 1, 0.95) < min_ratio


def test_a_limit_that_equals_the_bound_needs_exactly_those_prompts() -> None:
    assert prompts_to_prove_rate(smallest_provable_rate(37, 0.95), 0.95) == 37
    assert prompts_to_prove_ratio(largest_provable_ratio(37, 0.95), 0.95) == 37
