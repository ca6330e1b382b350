"""Figures for labelled verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """All between 0 and 1; None where a class is missing.

    f1: of the unsafe class. weighted_f1: mean of both classes' F1 weighted by their rows, which is
    what published guard tables most likely print. auprc: average precision.
    """

    safe: int
    unsafe: int
    f1: float | None
    weighted_f1: float
    recall: float | None
    fpr: float | None
    auroc: float | None
    auprc: float | None = None

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
        auprc=auprc(score, truth) if positive else None,
    )


def intervals(
    scores: Sequence[float],
    unsafe: Sequence[bool],
    threshold: float = 0.5,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """95 % bootstrap intervals of every figure of `measure`, over rows.

    None where a resample may lack a class.
    """
    score, truth = np.asarray(scores, np.float64), np.asarray(unsafe, bool)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float | None]] = {}
    for _ in range(resamples):
        picked = rng.integers(0, len(truth), len(truth))
        for name, value in asdict(measure(score[picked], truth[picked], threshold)).items():
            drawn.setdefault(name, []).append(value)
    found: dict[str, tuple[float, float] | None] = {}
    for name, values in drawn.items():
        there = [value for value in values if value is not None]
        low, high = np.quantile(there, (0.025, 0.975)) if len(there) == resamples else (None, None)
        found[name] = None if low is None else (float(low), float(high))
    return found


def sweep(
    scores: Sequence[float], unsafe: Sequence[bool], points: int = 99
) -> list[dict[str, float | None]]:
    """F1, recall and false-positive rate at evenly spread thresholds between 0 and 1."""
    found: list[dict[str, float | None]] = []
    for threshold in np.linspace(0, 1, points + 2)[1:-1]:
        at = measure(scores, unsafe, float(threshold))
        found.append(
            {
                "threshold": round(float(threshold), 4),
                "f1": at.f1,
                "recall": at.recall,
                "fpr": at.fpr,
            }
        )
    return found


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """Probability that an unsafe row scores above a safe one; ties count one half."""
    _, rank_of, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[rank_of]
    positive = int(truth.sum())
    above = ranks[truth].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(truth) - positive)))


def auprc(score: np.ndarray, truth: np.ndarray) -> float:
    """Average precision: the mean over unsafe rows of the precision at their score, ties as one."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    # Only the last of equal scores is a threshold.
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    recall = hits[last] / hits[-1]
    precision = hits[last] / (last + 1)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _f1(said: np.ndarray, truth: np.ndarray) -> float:
    hits = int((said & truth).sum())
    wrong = int((said ^ truth).sum())
    return 2 * hits / (2 * hits + wrong) if hits else 0.0
