"""Figures for labelled verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """All between 0 and 1; None where a class is missing.

    f1: of the unsafe class. weighted_f1: mean of both classes' F1 weighted by their rows, which is
    what published guard tables most likely print.
    """

    safe: int
    unsafe: int
    f1: float | None
    weighted_f1: float
    recall: float | None
    fpr: float | None
    auroc: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain data, rounded to four places."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def measure(scores: Sequence[float], unsafe: Sequence[bool], threshold: float = 0.5) -> Metrics:
    """Metrics of P(unsafe) against the truth; unsafe from `threshold` on."""
    score, truth = np.asarray(scores, np.float64), np.asarray(unsafe, bool)
    said = score >= threshold
    n, positive = len(truth), int(truth.sum())
    f1, f1_safe = _f1(said, truth), _f1(~said, ~truth)
    return Metrics(
        safe=n - positive,
        unsafe=positive,
        f1=f1 if positive else None,
        weighted_f1=(f1 * positive + f1_safe * (n - positive)) / n,
        recall=float(said[truth].mean()) if positive else None,
        fpr=float(said[~truth].mean()) if positive < n else None,
        auroc=auroc(score, truth) if 0 < positive < n else None,
    )


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """Probability that an unsafe row scores above a safe one; ties count one half."""
    _, rank_of, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[rank_of]
    positive = int(truth.sum())
    above = ranks[truth].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(truth) - positive)))


def _f1(said: np.ndarray, truth: np.ndarray) -> float:
    hits = int((said & truth).sum())
    wrong = int((said ^ truth).sum())
    return 2 * hits / (2 * hits + wrong) if hits else 0.0
