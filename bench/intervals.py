"""Quantiles of timings with intervals that assume no distribution, and ratios of paired runs.

The interval of a quantile is between two order statistics, whose ranks follow from the binomial
distribution (Hahn and Meeker, Statistical Intervals, section 5.2). Few values have no interval for
a high quantile, and then there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; low and high are None where the values are too few for one."""

    value: float
    low: float | None
    high: float | None

    def to_dict(self, digits: int = 3) -> dict[str, float | None]:
        """Plain data."""
        cells = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if v is None else round(v, digits) for name, v in cells.items()}


def quantile(values: Sequence[float], q: float, confidence: float = 0.95) -> Estimate:
    """The `q` quantile (0 to 1) of `values`. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = np.sort(np.asarray(values, np.float64))
    ranks = _ranks(len(ordered), q, confidence)
    low, high = (None, None) if ranks is None else (float(ordered[r - 1]) for r in ranks)
    return Estimate(float(np.quantile(ordered, q)), low, high)


def quantiles(values: Sequence[float]) -> dict[str, Estimate]:
    """p50, p90, p95 and p99 by name."""
    return {f"p{round(100 * q)}": quantile(values, q) for q in QUANTILES}


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """Median of the ratios of runs that were made side by side, value over base."""
    return quantile([v / b for v, b in zip(values, base, strict=True)], 0.5)


def _ranks(n: int, q: float, confidence: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the order statistics between which the quantile lies.

    They leave at most half of 1 − confidence on either side; None where no two do.
    """
    tail = (1 - confidence) / 2
    below = np.cumsum(_binomial(n, q))
    # The quantile lies under the r-th value with probability P(B < r), over it with P(B >= r).
    lower = int(np.searchsorted(below, tail, side="right"))
    upper = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return (lower, upper) if lower >= 1 and upper <= n else None


def _binomial(n: int, q: float) -> np.ndarray:
    """Probabilities of 0 to n successes, computed in logarithms."""
    k = np.arange(n + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    found: np.ndarray = np.exp(choose + k * math.log(q) + (n - k) * math.log1p(-q))
    return found
