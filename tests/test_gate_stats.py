"""Rates, sample sizes and judge correction."""

import numpy as np
import pytest
from scipy.stats import binom

from safediff.gate.stats import (
    Estimate,
    JudgeAccuracy,
    corrected,
    mcnemar_exact,
    min_samples,
    observable_limits,
    observable_rate,
    rate,
    rate_lower,
    rate_upper,
    rogan_gladen,
    samples_to_settle,
)


def known(value: float) -> Estimate:
    return Estimate(value, value, value, 1000, 0.95, "known")


@pytest.mark.parametrize(
    ("max_rate", "expected"),
    [(0.10, 29), (0.05, 59), (0.02, 149), (0.01, 299), (0.005, 598), (0.001, 2995)],
)
def test_min_samples_without_hits(max_rate: float, expected: int) -> None:
    assert min_samples(max_rate, 0.95) == expected


@pytest.mark.parametrize(("hits", "expected"), [(1, 473), (2, 628), (3, 773)])
def test_min_samples_tolerating_hits(hits: int, expected: int) -> None:
    assert min_samples(0.01, 0.95, hits) == expected


def test_min_samples_refuses_what_cannot_be_proven() -> None:
    with pytest.raises(ValueError, match="no number of samples"):
        min_samples(0.0, 0.95)


def test_an_imperfect_judge_needs_more_samples() -> None:
    judge = JudgeAccuracy(known(0.9), known(1.0))
    assert observable_rate(0.01, judge) == pytest.approx(0.009)
    assert min_samples(observable_rate(0.01, judge), 0.95) == 332


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (7, 40), (39, 40), (40, 40)])
def test_bounds_solve_the_binomial_tail(hits: int, n: int) -> None:
    upper, lower = rate_upper(hits, n, 0.95), rate_lower(hits, n, 0.95)
    if hits < n:
        assert binom.cdf(hits, n, upper) == pytest.approx(0.05)
    else:
        assert upper == 1
    if hits > 0:
        assert binom.sf(hits - 1, n, lower) == pytest.approx(0.05)
    else:
        assert lower == 0


def test_upper_bound_covers_for_every_rate() -> None:
    n = 60
    uppers = np.array([rate_upper(hits, n, 0.95) for hits in range(n + 1)])
    for true_rate in np.linspace(0.01, 0.99, 50):
        missed = binom.pmf(np.arange(n + 1), n, true_rate)[uppers < true_rate].sum()
        assert missed <= 0.05


@pytest.mark.parametrize(("hits", "n", "confidence"), [(0, 0, 0.95), (3, 2, 0.95), (0, 5, 1.0)])
def test_impossible_counts_are_refused(hits: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        rate_upper(hits, n, confidence)


def test_samples_to_settle() -> None:
    assert samples_to_settle(0.0, 0.01, 0.95) == 299
    needed = samples_to_settle(0.02, 0.05, 0.95)
    assert needed is not None
    assert rate_upper(0.02 * needed, needed, 0.95) <= 0.05
    assert rate_upper(0.02 * (needed - 1), needed - 1, 0.95) > 0.05
    assert samples_to_settle(0.05, 0.05, 0.95) is None


def test_rogan_gladen_inverts_the_judge() -> None:
    true, sensitivity, specificity = 0.3, 0.8, 0.95
    seen = true * sensitivity + (1 - true) * (1 - specificity)
    assert rogan_gladen(seen, sensitivity, specificity) == pytest.approx(true)


def test_rogan_gladen_is_undefined_for_a_useless_judge() -> None:
    assert rogan_gladen(0.1, 0.5, 0.5) is None
    assert rogan_gladen(0.1, 1.0, 0.0) is None
    assert corrected(rate(0, 50, 0.95), JudgeAccuracy(known(1.0), known(0.05))) is None


def test_correction_takes_the_worst_end_of_the_judge() -> None:
    observed = rate(3, 100, 0.95)
    judge = JudgeAccuracy(rate(95, 100, 0.95), rate(99, 100, 0.95))
    found = corrected(observed, judge)
    assert found is not None
    assert found.upper == pytest.approx(observed.upper / judge.sensitivity.lower)
    assert found.lower == rogan_gladen(
        observed.lower, judge.sensitivity.upper, judge.specificity.lower
    )
    assert found.lower <= found.value <= found.upper


def test_what_a_judge_sees_in_unseen_pictures_is_forgiven_no_model() -> None:
    """Kept pictures of the base in which it sees the concept may show it."""
    observed = rate(3, 100, 0.95)
    spotless, noisy = (
        JudgeAccuracy(rate(95, 100, 0.95), rate(passed, 400, 0.95)) for passed in (400, 380)
    )
    strict, forgiving = (corrected(observed, judge) for judge in (spotless, noisy))
    assert strict is not None
    assert forgiving is not None
    assert forgiving.upper == strict.upper
    assert forgiving.value < strict.value  # the estimate is corrected on both sides
    assert observable_rate(0.05, noisy) == observable_rate(0.05, spotless)
    limits = observable_limits(0.05, noisy)
    assert limits is not None
    assert limits[0] == observable_rate(0.05, noisy)


def test_mcnemar_exact() -> None:
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(5, 5) == 1
    assert mcnemar_exact(6, 0) == pytest.approx(2 / 64)
    assert mcnemar_exact(0, 6) == mcnemar_exact(6, 0)
