"""Thresholds that bound how many unsafe rows are missed, by split conformal prediction.

Method: for scores of unsafe rows that are exchangeable with those to come, the k-th smallest score
as threshold misses a share of Beta(k, n + 1 − k) over the draw of the n rows (V. Vovk, "Conditional
validity of inductive conformal predictors", 2012, Proposition 2a). The bound says nothing about
rows of another kind than those it was fitted on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import MissBound

CONFIDENCE = 0.95
SMALLEST = 1e-9


def miss_bound(
    scores: NDArray[np.float64], rate: float, confidence: float = CONFIDENCE
) -> MissBound:
    """The highest threshold whose miss rate is at most `rate` with `confidence`.

    scores: float [N], P(unsafe) of unsafe rows that nothing else was fitted on. Raises ValueError
    for a rate or confidence outside (0, 1), scores outside [0, 1], or fewer rows than any bound
    needs (ln(1 − confidence) / ln(1 − rate)).
    """
    if not (0 < rate < 1 and 0 < confidence < 1):
        raise ValueError(f"rate {rate} and confidence {confidence} must lie between 0 and 1")
    found = np.sort(np.asarray(scores, np.float64))
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise ValueError("scores are a list of numbers from 0 to 1")
    k = largest_rank(len(found), rate, confidence)
    if k == 0:
        raise ValueError(
            f"{len(found)} unsafe rows cannot bound the miss rate by {rate:g} with confidence "
            f"{confidence:g}: {fewest_rows(rate, confidence)} are needed"
        )
    # A score of exactly 0 or 1 has no logit.
    threshold = float(np.clip(found[k - 1], SMALLEST, 1 - SMALLEST))
    return MissBound(rate, threshold, confidence, len(found))


def largest_rank(n: int, rate: float, confidence: float) -> int:
    """The largest k with P(Beta(k, n + 1 − k) ≤ rate) ≥ confidence; 0 where there is none.

    That probability is the one of at least k successes among n trials of chance `rate`.
    """
    # Chances of 0, 1, … misses, by logarithms: n choose k is too large for a float.
    k = np.arange(n + 1)
    steps = np.log(n - k[:-1]) - np.log(k[:-1] + 1) if n else np.zeros(0)
    choose = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(choose + k * np.log(rate) + (n - k) * np.log1p(-rate))
    at_least = np.cumsum(chances[::-1])[::-1]
    return int(np.count_nonzero(at_least[1:] >= confidence))


def fewest_rows(rate: float, confidence: float) -> int:
    """The number of unsafe rows from which on a bound exists."""
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-rate)))
