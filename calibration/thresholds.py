"""Fit the score from which content of one category is "unsafe".

A row counts for the main category that the model names, or would name were the row unsafe, for at
run time nobody knows the true one. By cost: the threshold with the cheapest errors among the rows
of a category, drawn towards the common 0.5 in logit space by `rows / (rows + PRIOR)`. By rate: the
conformal bound on the misses among its unsafe rows, which allows for few rows by itself; grouped by
what the model says of a row it holds within each group (V. Vovk, "Conditional validity of inductive
conformal predictors", 2012, on label- and attribute-conditional predictors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Calibration
from proguard_edge.artifact.format import PARTS, SMALLEST
from proguard_edge.calibration.conformal import miss_bound
from proguard_edge.calibration.judged import Judged, judge_rows
from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.thresholds import COMMON
from proguard_edge.train.rows import Row

MIN_ROWS = 30
PRIOR = 50


@dataclass(frozen=True)
class Effect:
    """Errors of one part's labels: at 0.5 for all categories, and at their own thresholds."""

    rows: int
    misses: int
    misses_at_common: int
    false_alarms: int
    false_alarms_at_common: int


def named_categories(
    guard: Guard,
    judged: Sequence[Judged],
    track: Callable[[Sequence[Row]], Iterable[Row]] = list,
) -> dict[str, str]:
    """Row id → main category that is named, or would be were the row unsafe.

    guard: the one that gave the verdicts, see `plain_guard`; it judges the safe rows again. Rows
    with an error or a free name are not in the result. track: sees the rows judged again.
    """
    verdicts = [(row, v) for row, v in judged if not isinstance(v, ProGuardEdgeError)]
    found = {row.id: v.category.id for row, v in verdicts if v.category is not None}
    calm = [(row, v) for row, v in verdicts if v.category is None]
    own, moved = guard.artifact.calibration, dict[str, Calibration]()
    for part in PARTS:
        scores = [said.score for _, v in calm if (said := getattr(v, part)) is not None]
        if scores:
            # A little below the lowest, so that rounding leaves none of them safe.
            lowest = max(min(scores) * (1 - 1e-6), SMALLEST)
            moved[part] = own.get(part, Calibration()).stricter(lowest)
    strict = Guard(replace(guard.artifact, calibration=moved), guard.engine, guard.eyes)
    for row in track([row for row, _ in calm]):
        ((_, again),) = judge_rows(strict, [row])
        if not isinstance(again, ProGuardEdgeError) and again.category is not None:
            found[row.id] = again.category.id
    return {name: category.split("S")[0] for name, category in found.items() if category}


def fit_thresholds(
    scores: Sequence[float],
    unsafe: Sequence[bool],
    categories: Sequence[str | None],
    *,
    miss_cost: float = 1.0,
    rate: float | None = None,
    allow_raise: bool = False,
) -> dict[str, float]:
    """Thresholds, 0 to 1, of the categories that have rows enough and another one than 0.5.

    scores: P(unsafe) of one part. categories: see `named_categories`. miss_cost: what a missed
    unsafe row costs in false alarms, both classes weighing the same over all rows. rate: bound the
    share of missed rows of each category instead. Enough are MIN_ROWS rows, and for a rate as many
    unsafe ones as its bound needs. Only with allow_raise a threshold lies above 0.5. Raises
    ValueError for a cost that is not positive or a rate outside (0, 1).
    """
    if not miss_cost > 0 or (rate is not None and not 0 < rate < 1):
        raise ValueError(f"a miss cost of {miss_cost}, a rate of {rate}")
    score, truth = np.asarray(scores, np.float64), np.asarray(unsafe, bool)
    names = np.array([category or "" for category in categories])
    costs, found = _costs(truth, miss_cost), {}
    for name in sorted(set(names) - {""}, key=lambda main: (len(main), main)):
        own = names == name
        if own.sum() < MIN_ROWS:
            continue
        if rate is not None:
            threshold = _by_rate(score[own & truth], rate)
        else:
            threshold = _by_cost(score[own], costs[own], truth[own], allow_raise)
        if threshold < COMMON or (allow_raise and threshold > COMMON):
            found[str(name)] = float(np.clip(threshold, SMALLEST, 1 - SMALLEST))
    return found


def effect(
    scores: Sequence[float],
    unsafe: Sequence[bool],
    categories: Sequence[str | None],
    thresholds: Mapping[str, float],
) -> Effect:
    """Errors with and without the thresholds of categories."""
    score, truth = np.asarray(scores, np.float64), np.asarray(unsafe, bool)
    begins = np.array([thresholds.get(category or "", COMMON) for category in categories])
    said, common = score >= begins, score >= COMMON
    return Effect(
        rows=len(truth),
        misses=int((truth & ~said).sum()),
        misses_at_common=int((truth & ~common).sum()),
        false_alarms=int((~truth & said).sum()),
        false_alarms_at_common=int((~truth & common).sum()),
    )


def _by_rate(missable: NDArray[np.float64], rate: float) -> float:
    try:
        return miss_bound(missable, rate).threshold
    except ValueError:
        return COMMON


def _costs(truth: NDArray[np.bool_], miss_cost: float) -> NDArray[np.float64]:
    """What an error on each row costs; the classes weigh as in `fit_calibration`."""
    share = miss_cost / (1 + miss_cost)
    miss = share / max(int(truth.sum()), 1)
    alarm = (1 - share) / max(int((~truth).sum()), 1)
    return truth * miss + ~truth * alarm


def _by_cost(
    score: NDArray[np.float64],
    cost: NDArray[np.float64],
    truth: NDArray[np.bool_],
    allow_raise: bool,
) -> float:
    """The threshold with the cheapest errors, nearest to 0.5 among equals, drawn towards 0.5."""
    kept = np.clip(score, SMALLEST, 1 - SMALLEST)
    logits = np.log(kept) - np.log1p(-kept)
    order = np.argsort(logits)
    missed, alarms = (
        np.concatenate([[0.0], np.cumsum((cost * kind)[order])]) for kind in (truth, ~truth)
    )
    ordered, distinct = logits[order], np.unique(logits)
    # Nothing is known below the lowest score and above the highest.
    candidates = np.array(sorted([0.0, *((distinct[:-1] + distinct[1:]) / 2)], key=abs))
    if not allow_raise:
        candidates = candidates[candidates <= 0]
    below = np.searchsorted(ordered, candidates)
    expense = missed[below] + alarms[-1] - alarms[below]
    # Sums of the same costs in another order differ in their last digits.
    cheapest = float(candidates[np.flatnonzero(expense <= expense.min() + 1e-12)[0]])
    drawn = cheapest * len(score) / (len(score) + PRIOR)
    return 1 / (1 + math.exp(-drawn))
