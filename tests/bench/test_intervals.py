"""Quantiles, their intervals, and ratios of paired runs."""

from __future__ import annotations

import numpy as np
import pytest

from proguard_edge.bench.intervals import Estimate, paired_ratio, quantile, quantiles


def test_the_interval_of_a_median_has_the_ranks_of_the_tables():
    # Of 20 values the median lies between the 6th and the 15th with more than 95 %.
    found = quantile(list(range(1, 21)), 0.5)
    assert found == Estimate(10.5, 6.0, 15.0)


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_intervals_cover_the_true_quantile_as_often_as_they_say(q):
    rng = np.random.default_rng(0)
    truth = float(np.quantile(rng.exponential(size=2_000_000), q))
    hits = 0
    for _ in range(1000):
        found = quantile(rng.exponential(size=120).tolist(), q)
        hits += found.low <= truth <= found.high
    assert 940 <= hits <= 990


def test_few_values_have_no_interval_for_a_high_quantile():
    found = quantiles([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0])
    assert found["p50"].low == 1.0
    assert found["p50"].high == 7.0
    assert found["p99"].low is None
    assert found["p99"].value <= 7.0
    assert quantile([2.0], 0.5) == Estimate(2.0, None, None)


def test_the_ratio_is_that_of_each_pair():
    # A machine that becomes slower moves both sides, and no ratio.
    base = [1.0 + 0.1 * i for i in range(30)]
    found = paired_ratio([1.2 * b for b in base], base)
    assert found.value == pytest.approx(1.2)
    assert found.low == pytest.approx(1.2)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_ratio([1.0], [1.0, 2.0])


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_plain_data_is_rounded():
    found = Estimate(1.23456, None, 2.0).to_dict(1)
    assert found == {"value": 1.2, "low": None, "high": 2.0}
