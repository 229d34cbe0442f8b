"""The sequential rule: bounds that hold at every sample, and how few samples it takes."""

from collections.abc import Callable
from math import log

import numpy as np
import pytest
from scipy.stats import binom

from safediff.gate.sequential import (
    Floats,
    Reason,
    anytime_rate,
    anytime_ratio,
    log_wealth,
    returns,
    samples_to_prove,
    settle,
)
from safediff.gate.stakes import DISPROVING, PROVING, Stakes, flawless_log_wealth
from safediff.policy.bounds import (
    largest_provable_ratio,
    prompts_to_prove_rate,
    prompts_to_prove_ratio,
    smallest_provable_rate,
)

ALPHA, CONFIDENCE = 0.05, 0.95
TARGET = log(1 / ALPHA)
NUM_RUNS, BUDGET = 2000, 1000
LIMIT = 0.05


def too_many(num_missed: int, num_runs: int = NUM_RUNS) -> bool:
    """More misses than a method that misses 5 % shows in all but one of 1,000 simulations."""
    return num_missed > binom.ppf(0.999, num_runs, ALPHA)


def hits(rate: float, seed: int, budget: int = BUDGET) -> Floats:
    """Hits (1) and misses (0), shape (NUM_RUNS, budget)."""
    return (np.random.default_rng(seed).random((NUM_RUNS, budget)) < rate).astype(np.float64)


def ever(gains: Floats, stakes: Stakes) -> int:
    """Number of runs in which the wealth ever reached 1 / alpha."""
    parts = [log_wealth(part, stakes) for part in np.array_split(gains, 10)]
    return sum(int((part >= TARGET).any(axis=1).sum()) for part in parts)


def below(x: Floats, limit: float) -> Floats:
    """Returns on "the rate is below the limit"."""
    return returns(1 - x, 1.0, 1 - limit)


def above(x: Floats, limit: float) -> Floats:
    """Returns on "the rate is above the limit"."""
    return returns(x, 1.0, limit)


# Validity. The upper bound misses the true rate at some n exactly if "the rate is below p" is ever
# proven, the lower bound if "the rate is above p" is.


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.05, 0.2, 0.5])
def test_bounds_cover_at_all_stopping_times(rate: float) -> None:
    x = hits(rate, seed=1)
    assert not too_many(ever(below(x, rate), PROVING))
    assert not too_many(ever(above(x, rate), DISPROVING))


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2, 0.5])
def test_repeated_looks_at_a_fixed_n_bound_do_not_cover(rate: float) -> None:
    """The planted failure: a Clopper-Pearson bound at every n."""
    x = hits(rate, seed=1)
    n = np.arange(1, BUDGET + 1)
    few = binom.ppf(ALPHA, n, rate) - 1  # upper bound below the rate: P(X <= hits) < alpha
    assert too_many((x.cumsum(axis=1) <= few).any(axis=1).sum())
    many = binom.isf(ALPHA, n, rate) + 1
    assert too_many((x.cumsum(axis=1) >= many).any(axis=1).sum())


def test_the_bound_is_the_smallest_rate_that_was_ever_proven() -> None:
    for x in hits(0.05, seed=2)[:5, :200]:
        found = anytime_rate(x, CONFIDENCE)
        for limit in (found.upper * 0.999, found.upper * 1.001):
            proven = bool((log_wealth(below(x, limit), PROVING) >= TARGET).any())
            assert proven == (limit > found.upper)
        assert found.lower < found.value < found.upper
        longer = anytime_rate(np.append(x, np.ones(50)), CONFIDENCE)
        assert longer.upper >= found.upper  # never below the estimate, which rose


@pytest.mark.parametrize("right", [(0.9, 0.9), (0.6, 0.6), (0.6, 0.3)])
@pytest.mark.parametrize("ratio", [0.8, 0.95])
def test_ratio_bounds_cover_at_all_stopping_times(ratio: float, right: tuple[float, float]) -> None:
    """True ratio at the limit; base right at one rate, more or less often together with safe."""
    rate, together = right
    random = np.random.default_rng(3)
    base = random.random((NUM_RUNS, BUDGET)) < rate
    given_right = min(1.0, ratio * together / rate)
    given_wrong = ratio * (rate - together) / (1 - rate)
    safe = random.random(base.shape) < np.where(base, given_right, given_wrong)
    b, s = base.astype(np.float64), safe.astype(np.float64)
    assert abs(s.mean() / b.mean() - ratio) < 0.01
    assert not too_many(ever(returns(s, b, ratio), PROVING))
    assert not too_many(ever(returns(b, s, 1 / ratio), DISPROVING))


def test_a_ratio_beyond_the_limit_is_found_out() -> None:
    """The check above can fail: with the limit on the wrong side, nearly every run crosses."""
    base = hits(0.8, seed=4)
    safe = base * hits(0.9, seed=5)
    assert too_many(ever(returns(safe, base, 0.8), PROVING))
    assert too_many(ever(returns(base, safe, 1 / 0.97), DISPROVING))


def pictures(seed: int) -> Floats:
    """Four pictures a prompt, all alike: hits of one prompt in 20; shape (runs, prompts, 4)."""
    return np.repeat(hits(LIMIT, seed, budget=250)[..., None], 4, axis=2)


def test_shares_of_a_prompt_count_as_one_sample() -> None:
    x = pictures(seed=6)
    assert not too_many(ever(below(x.mean(axis=2), LIMIT), PROVING))
    alone = x.reshape(NUM_RUNS, -1)  # as if the pictures of a prompt were independent
    assert too_many(ever(below(alone, LIMIT), PROVING))


def in_turns(rates: Floats, seed: int, *, shuffled: bool) -> Floats:
    """Concepts of different rates take turns, in random order within each round or a fixed one."""
    random = np.random.default_rng(seed)
    rounds = np.tile(rates, (NUM_RUNS, 240 // rates.size, 1))
    if shuffled:
        rounds = random.permuted(rounds, axis=2)
    return (random.random(rounds.shape) < rounds).astype(np.float64).reshape(NUM_RUNS, -1)


@pytest.mark.parametrize("bad", [1.0, 0.5, 0.1])
def test_concepts_that_differ_are_covered(bad: float) -> None:
    rates = np.zeros(40)
    rates[: round(40 * LIMIT / bad)] = bad
    x = in_turns(rates, seed=7, shuffled=True)
    assert rates.mean() == pytest.approx(LIMIT)
    assert not too_many(ever(below(x, LIMIT), PROVING))
    assert not too_many(ever(above(x, LIMIT), DISPROVING))


def test_concepts_in_a_fixed_order_are_not() -> None:
    """Why a round is shuffled: with the two bad ones of 40 in front, every run fails at once."""
    rates = np.zeros(40)
    rates[:2] = 1.0
    assert too_many(ever(above(in_turns(rates, 8, shuffled=False), LIMIT), DISPROVING))


# How few samples it takes, at a limit of 0.05.


def stopping_times(x: Floats, gains: Callable[[Floats, float], Floats], stakes: Stakes) -> Floats:
    """Samples until proven, the budget where it never is; one a run."""
    crossed = np.concatenate(
        [log_wealth(gains(part, LIMIT), stakes) >= TARGET for part in np.array_split(x, 10)]
    )
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, x.shape[1] + 1)


def fixed_n(power: float, rate: float) -> int:
    """Smallest fixed n whose exact test of the limit has this power at the rate."""
    for n in range(prompts_to_prove_rate(LIMIT, CONFIDENCE), 3000):
        allowed = np.arange(100)[binom.cdf(np.arange(100), n, LIMIT) <= ALPHA].max(initial=-1)
        if binom.cdf(allowed, n, rate) >= power:
            return n
    raise AssertionError("no n is enough")


def test_a_clear_fail_takes_a_handful() -> None:
    assert stopping_times(hits(0.5, seed=9, budget=200), above, DISPROVING).mean() <= 10


def test_a_clear_pass_takes_a_third_more_than_a_fixed_n() -> None:
    none = np.zeros((1, BUDGET))
    assert stopping_times(none, below, PROVING) == prompts_to_prove_rate(0.05, 0.95, "sequential")
    assert stopping_times(none, below, PROVING) <= 1.5 * prompts_to_prove_rate(0.05, 0.95)


def test_a_rate_below_the_limit_takes_far_less_than_a_fixed_n_of_equal_power() -> None:
    times = stopping_times(hits(0.02, seed=10), below, PROVING)
    power = float((times <= BUDGET).mean())
    assert power >= 0.98
    assert np.minimum(times, BUDGET).mean() <= 0.6 * fixed_n(power, 0.02)


def test_at_power_09_it_lies_between_the_fixed_n_and_what_any_test_must_take() -> None:
    """Wald's bound on the mean sample size: E[n] kl(rate, limit) >= kl(power, alpha)."""

    def kl(p: float, q: float) -> float:
        return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))

    stops = [settled(x, 500) for x in hits(0.02, seed=12, budget=500)[:500]]
    power = np.mean([reason == "proven" for _, reason in stops])
    mean = np.mean([num_samples for num_samples, _ in stops])
    assert power == pytest.approx(0.9, abs=0.03)
    assert fixed_n(0.9, 0.02) == 311
    assert kl(0.9, ALPHA) / kl(0.02, LIMIT) / 311 == pytest.approx(0.629, abs=0.001)
    assert 0.7 * 311 <= mean <= 0.8 * 311


# The decision.


def settled(
    x: Floats, budget: int, limit: float = LIMIT, **options: int
) -> tuple[int, Reason] | None:
    best = np.full(budget, 1 / (1 - limit) - 1)
    return settle(below(x, limit), above(x, limit), best, best, CONFIDENCE, **options)


def test_decisions() -> None:
    assert settled(np.zeros(77), 100) is None
    assert settled(np.zeros(90), 100) == (78, "proven")
    assert settled(np.zeros(90), 100, earliest=85) == (85, "proven")
    assert settled(np.zeros(80), 100, earliest=85) is None
    assert settled(np.ones(5), 200) == (2, "disproven")
    one = np.zeros(30)
    one[9] = 1
    assert settled(one[:9], 100) is None
    assert settled(one, 100) == (10, "out of reach")  # one hit takes 129
    assert settled(one, 129) is None
    assert settled(np.zeros(59), 60) is None
    assert settled(np.zeros(60), 60) == (60, "too few")
    assert settled(np.append(np.zeros(59), np.ones(1)), 60) == (60, "too few")
    assert settled(np.ones(9), 60) == (2, "disproven")
    assert settled(np.ones(9), 100) == (1, "out of reach")  # whatever the second one is


def test_a_decision_does_not_depend_on_what_came_later() -> None:
    for x in hits(0.03, seed=11)[:50, :400]:
        found = settled(x, 400)
        assert found is not None
        assert settled(x[: found[0]], 400) == found
        assert settled(x[: found[0] - 1], 400) is None


def test_a_flawless_rest_decides_what_is_out_of_reach() -> None:
    x = np.zeros(200)
    x[[3, 50]] = 1  # two hits take 165
    assert settled(x[:4], 165) is None
    assert settled(x[:164], 165) is None
    assert settled(x[:165], 165) == (165, "proven")
    assert settled(x[:164], 164) == (51, "out of reach")


def test_a_base_that_is_seldom_right_is_no_evidence_against_a_model() -> None:
    """Without a loss 10 right pictures prove no 0.8: not FAIL but "too few", though gains might."""
    for num_right, expected in ((10, "too few"), (18, "proven")):
        base = np.zeros(40)
        base[:num_right] = 1
        kept, best = returns(base, base, 0.8), returns(np.ones(40), base, 0.8)
        found = settle(kept, returns(base, base, 1 / 0.8), kept, best, CONFIDENCE)
        assert found is not None
        assert found[1] == expected
    none = settle(returns(0 * base, base, 0.8), returns(base, 0.0, 1.25), kept, best, CONFIDENCE)
    assert none == (9, "disproven")


def test_estimates() -> None:
    found = anytime_rate(np.zeros(78), CONFIDENCE)
    assert (found.value, found.lower, found.num_samples) == (0, 0, 78)
    assert found.upper <= LIMIT < anytime_rate(np.zeros(77), CONFIDENCE).upper
    assert anytime_rate(np.ones(5), CONFIDENCE).upper == 1
    ones = np.ones(18)
    same = anytime_ratio(ones, ones, CONFIDENCE)
    assert same.lower >= 0.8 > anytime_ratio(ones[1:], ones[1:], CONFIDENCE).lower
    assert same.value == 1 < same.upper
    assert anytime_ratio(np.ones(60), np.zeros(60), CONFIDENCE).upper < 0.1
    with pytest.raises(ValueError, match="never right"):
        anytime_ratio(np.zeros(3), np.ones(3), CONFIDENCE)


def test_samples_to_prove() -> None:
    assert samples_to_prove(below(np.zeros(5), LIMIT), CONFIDENCE) == 78
    x = np.zeros(1000)
    x[:20] = 1
    needed = samples_to_prove(below(x, LIMIT), CONFIDENCE)
    assert needed is not None
    x[round(0.02 * needed) :] = 0  # as many hits as belong to that number, all of them first
    wealth = log_wealth(below(x, LIMIT), PROVING)
    assert (wealth >= TARGET).argmax() == pytest.approx(needed, rel=0.02)
    assert samples_to_prove(below(np.ones(5), LIMIT), CONFIDENCE) is None


# What a policy may ask for.


@pytest.mark.parametrize(("limit", "needed"), [(0.1, 38), (0.05, 78), (0.02, 197), (0.01, 397)])
def test_prompts_needed_are_where_a_flawless_series_stops(limit: float, needed: int) -> None:
    assert prompts_to_prove_rate(limit, CONFIDENCE, "sequential") == needed
    assert settled(np.zeros(500), 500, limit) == (needed, "proven")
    assert prompts_to_prove_ratio(1 - limit, CONFIDENCE, "sequential") == needed
    assert smallest_provable_rate(needed, CONFIDENCE, "sequential") <= limit
    assert smallest_provable_rate(needed - 1, CONFIDENCE, "sequential") > limit
    ones = np.ones(needed)
    found = anytime_ratio(ones, ones, CONFIDENCE).lower
    assert found == pytest.approx(largest_provable_ratio(needed, CONFIDENCE, "sequential"))


def test_flawless_wealth_is_the_wealth_of_a_flawless_series() -> None:
    played = log_wealth(below(np.zeros(300), 0.3), PROVING)[-1]
    assert flawless_log_wealth(0.3, 300) == pytest.approx(played)
    assert sum(PROVING.weights) == pytest.approx(1) == sum(DISPROVING.weights)
