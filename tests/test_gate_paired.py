"""The paired ratio bound of Nam and Blackwelder."""

from math import log

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from safediff.gate.paired import (
    PairCounts,
    constrained_discordance,
    pairs_to_settle,
    ratio,
    ratio_lower,
    ratio_upper,
    ratio_z,
)

Z_95 = float(norm.ppf(0.95))


def maximise_numerically(pairs: PairCounts, theta: float) -> tuple[float, float]:
    """Maximise the multinomial likelihood under q11 + q10 = theta (q11 + q01).

    Free variables: the share s of pairs that are not "neither", and q10 within its range; the
    likelihood factorises, so both are searched one after the other.
    """

    def cells(q10: float, s: float) -> tuple[float, float, float]:
        q01 = theta * q10 - (theta - 1) * s
        return s - q10 - q01, q10, q01

    def loss(q10: float, s: float) -> float:
        terms = zip((pairs.both, pairs.gains, pairs.losses), cells(q10, s), strict=True)
        return -sum(n * log(max(q, 1e-300)) for n, q in terms if n)

    def best(s: float) -> float:
        low, high = max(0.0, (theta - 1) * s / theta), theta * s / (1 + theta)
        return float(
            minimize_scalar(
                loss, args=(s,), bounds=(low, high), method="bounded", options={"xatol": 1e-12}
            ).x
        )

    share = float(
        minimize_scalar(
            lambda s: loss(best(s), s) - (pairs.neither * log(1 - s) if pairs.neither else 0.0),
            bounds=(1e-6, 1 - 1e-9),
            method="bounded",
            options={"xatol": 1e-10},
        ).x
    )
    _, q10, q01 = cells(best(share), share)
    return q10, q01


@pytest.mark.parametrize(
    "pairs",
    [PairCounts(60, 4, 9, 7), PairCounts(30, 12, 5, 3), PairCounts(80, 1, 15, 4)],
)
@pytest.mark.parametrize("theta", [0.6, 0.9, 1.0, 1.2])
def test_closed_form_maximises_the_likelihood(pairs: PairCounts, theta: float) -> None:
    assert constrained_discordance(pairs, theta) == pytest.approx(
        maximise_numerically(pairs, theta), abs=1e-5
    )


def test_bounds_solve_the_score_equation() -> None:
    pairs = PairCounts(60, 4, 9, 7)
    assert ratio_z(pairs, ratio_lower(pairs, 0.95)) == pytest.approx(Z_95, abs=1e-6)
    assert ratio_z(pairs, ratio_upper(pairs, 0.95)) == pytest.approx(-Z_95, abs=1e-6)


def missed(cells: tuple[float, float, float, float], n: int, runs: int) -> float:
    """Share of simulated experiments whose lower bound exceeds the true ratio."""
    theta = (cells[0] + cells[1]) / (cells[0] + cells[2])
    draws: NDArray[np.int64] = np.random.default_rng(7).multinomial(n, cells, size=runs)
    tables, counts = np.unique(draws, axis=0, return_counts=True)
    wrong = [ratio_lower(PairCounts(*map(float, table)), 0.95) > theta for table in tables]
    return float(counts[np.array(wrong)].sum() / runs)


@pytest.mark.parametrize(
    "cells",
    [(0.85, 0.05, 0.05, 0.05), (0.75, 0.05, 0.10, 0.10), (0.90, 0.0, 0.10, 0.0)],
)
def test_lower_bound_covers_in_simulation(cells: tuple[float, float, float, float]) -> None:
    # 2000 runs: a true rate of 0.05 has a standard deviation of 0.005.
    assert missed(cells, n=80, runs=2000) <= 0.065


def test_lower_bound_is_not_needlessly_wide() -> None:
    assert missed((0.5, 0.2, 0.2, 0.1), n=80, runs=2000) >= 0.03


@pytest.mark.parametrize("n", [5, 50, 500])
def test_without_discordance_the_bound_is_exact_and_below_one(n: int) -> None:
    found = ratio(PairCounts(n, 0, 0, 10), 0.95)
    assert found.value == 1
    assert found.lower == pytest.approx(0.05 ** (1 / n))
    assert found.lower < 1 < found.upper
    assert "exact" in found.interval


def test_without_discordance_the_bound_shrinks_with_n() -> None:
    bounds = [ratio_lower(PairCounts(n, 0, 0, 0), 0.95) for n in (10, 100, 1000)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 0.99


def test_a_loss_lowers_and_a_gain_raises_the_bound() -> None:
    middle = ratio_lower(PairCounts(50, 3, 3, 4), 0.95)
    assert ratio_lower(PairCounts(49, 3, 4, 4), 0.95) < middle
    assert ratio_lower(PairCounts(50, 4, 3, 3), 0.95) > middle


def test_safe_and_base_are_not_interchangeable() -> None:
    lossy = ratio(PairCounts(50, 0, 20, 0), 0.95)
    assert lossy.value == pytest.approx(50 / 70)
    assert lossy.upper < 1


def test_a_model_that_is_never_right() -> None:
    found = ratio(PairCounts(0, 0, 30, 5), 0.95)
    assert (found.value, found.lower) == (0, 0)
    assert found.upper < 0.1


def test_a_base_that_is_never_right_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="never right"):
        ratio(PairCounts(0, 5, 0, 20), 0.95)


def test_pairs_to_settle() -> None:
    pairs = PairCounts(46, 2, 3, 1)
    needed = pairs_to_settle(pairs, 0.95, 0.95)
    assert needed is not None
    assert ratio_lower(pairs, 0.95) < 0.95
    assert ratio_lower(pairs.scaled(needed / 52), 0.95) >= 0.95
    assert pairs_to_settle(pairs, 0.99, 0.95) is None
