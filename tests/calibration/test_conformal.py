"""The bound holds: exactly by the binomial, and in draws from a known distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from proguard_edge.calibration.conformal import fewest_rows, largest_rank, miss_bound


def at_least(k: int, n: int, rate: float) -> float:
    return sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize("n", [1, 59, 100, 500])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_the_rank_is_the_last_that_the_binomial_allows(n: int, rate: float) -> None:
    k = largest_rank(n, rate, 0.95)
    assert k == 0 or at_least(k, n, rate) >= 0.95
    assert at_least(k + 1, n, rate) < 0.95


def test_no_rows_bound_nothing() -> None:
    assert largest_rank(0, 0.5, 0.5) == 0


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_the_fewest_rows_are_the_fewest(rate: float) -> None:
    n = fewest_rows(rate, 0.95)
    assert largest_rank(n, rate, 0.95) == 1
    assert largest_rank(n - 1, rate, 0.95) == 0
    with pytest.raises(ValueError, match=f"{n} are needed"):
        miss_bound(np.full(n - 1, 0.5), rate)


def test_the_miss_rate_is_kept_as_often_as_promised() -> None:
    # Scores uniform on [0, 1]: the true miss rate of a threshold is the threshold.
    rng = np.random.default_rng(7)
    kept = [miss_bound(rng.random(300), 0.1, 0.9).threshold <= 0.1 for _ in range(2000)]
    assert 0.9 <= np.mean(kept) < 0.96


def test_a_negative_control_breaks_the_promise() -> None:
    # The plain 10 % quantile keeps it only about half of the time.
    rng = np.random.default_rng(7)
    kept = [np.quantile(rng.random(300), 0.1) <= 0.1 for _ in range(2000)]
    assert np.mean(kept) < 0.7


def test_rows_at_the_threshold_are_unsafe_and_not_missed() -> None:
    found = miss_bound(np.full(200, 0.25), 0.05)
    assert (found.threshold, found.rows) == (0.25, 200)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_a_looser_bound_has_no_lower_threshold(rate: float) -> None:
    scores = np.random.default_rng(3).random(400)
    assert miss_bound(scores, rate).threshold <= miss_bound(scores, rate * 1.5).threshold


@pytest.mark.parametrize("scores", [[0.5, math.nan], [-0.1], [[0.5]]])
def test_what_is_no_score_is_refused(scores: list) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        miss_bound(np.array(scores * 400), 0.05)


@pytest.mark.parametrize(("rate", "confidence"), [(0, 0.9), (1, 0.9), (0.1, 1), (0.1, math.nan)])
def test_what_is_no_chance_is_refused(rate: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        miss_bound(np.full(400, 0.5), rate, confidence)
