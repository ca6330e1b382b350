"""Platt scaling: the bias and temperature that turn logit differences into probabilities.

Method: J. Platt, "Probabilistic outputs for support vector machines", 1999; here with both classes
given the same weight, so that 0.5 stands where the two are equally likely whatever their share of
the rows was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Calibration

STEPS = 100
# Keeps the slope finite where the classes do not overlap.
RIDGE = 1e-6


def fit_calibration(
    differences: NDArray[np.float64], unsafe: NDArray[np.bool_], miss_cost: float = 1.0
) -> Calibration:
    """Minimise the class-balanced log loss of σ((d − bias) / temperature) by Newton's method.

    differences: float [N], logit unsafe − logit safe. unsafe: bool [N]. miss_cost: what a missed
    unsafe row costs in false alarms; above 1 it moves the threshold towards "unsafe". Raises
    ValueError when one class is missing, the scores are not higher for "unsafe" at all, or the cost
    is not positive.
    """
    if not miss_cost > 0:
        raise ValueError(f"a miss cannot cost {miss_cost}")
    d, y = np.asarray(differences, np.float64), np.asarray(unsafe, bool)
    if y.all() or not y.any():
        raise ValueError("calibration needs safe and unsafe rows")
    share = miss_cost / (1 + miss_cost)
    weight = np.where(y, share / y.mean(), (1 - share) / (1 - y.mean()))
    # Newton's method starts at zero on standardized scores: from elsewhere it can run away.
    centre, width = d.mean(), d.std() or 1.0
    features = np.stack([(d - centre) / width, np.ones_like(d)], 1)
    theta = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-features @ theta))
        gradient = features.T @ (weight * (p - y))
        curvature = (features * (weight * p * (1 - p))[:, None]).T @ features
        ridge = RIDGE * len(d) * np.eye(2)
        step = np.linalg.solve(curvature + ridge, gradient + ridge @ theta)
        theta = theta - step
        if np.abs(step).max() < 1e-10:
            break
    slope = theta[0] / width
    offset = theta[1] - slope * centre
    if not slope > 0:
        raise ValueError("the scores do not separate the classes: nothing to calibrate")
    return Calibration(bias=float(-offset / slope), temperature=float(1 / slope))
