"""Whether scores mean what they say: calibration error, Brier score, reliability plot.

The confidence of a verdict is the probability of the label it gave, 0.5 to 1; calibrated is a
guard whose verdicts of confidence x are right in a share x of the cases. Expected calibration
error: C. Guo et al., "On Calibration of Modern Neural Networks", 2017 (arXiv 1706.04599), 15 bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Verdicts of like confidence: their mean confidence, the share that is right, their number."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class Reliability:
    """How far scores are from probabilities; each error is 0 to 1, 0 is best.

    ece: bins of equal width. ece_adaptive: bins of equal mass. ece_balanced: as ece, with both
    classes weighing the same, which is what the scores are fitted to. brier: mean squared error.
    bins: those of ece that hold rows, lowest confidence first.
    """

    rows: int
    ece: float
    ece_adaptive: float
    ece_balanced: float
    brier: float
    bins: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers rounded to six places."""
        found = asdict(self)
        found["bins"] = [_rounded(entry) for entry in found["bins"]]
        return _rounded(found)


def reliability(scores: Sequence[float], unsafe: Sequence[bool]) -> Reliability:
    """Figures of P(unsafe) against the truth. Raises ValueError: no rows, or no probabilities."""
    score, truth = np.asarray(scores, np.float64), np.asarray(unsafe, bool)
    if score.ndim != 1 or not len(score) or score.shape != truth.shape:
        raise ValueError("reliability needs a score and a truth for each of one row or more")
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("scores are numbers from 0 to 1")
    confidence = np.maximum(score, 1 - score)
    right = (score >= 0.5) == truth
    equal = np.full(len(truth), 1 / len(truth))
    width = _by_width(confidence)
    mass = _by_mass(confidence)
    return Reliability(
        rows=len(truth),
        ece=_gap(confidence, right, width, equal),
        ece_adaptive=_gap(confidence, right, mass, equal),
        ece_balanced=_gap(confidence, right, width, _balanced(truth)),
        brier=float(((score - truth) ** 2).mean()),
        bins=tuple(
            Bin(float(confidence[own].mean()), float(right[own].mean()), int(own.sum()))
            for own in (width == place for place in np.unique(width))
        ),
    )


def plot(before: Mapping[str, Reliability], after: Mapping[str, Reliability], path: Path) -> None:
    """A PNG: accuracy against confidence and the rows behind it, a column for each part.

    before, after: of request and response, with the scores before and after calibration. Needs
    matplotlib.
    """
    # The figure is drawn without pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = list(before)
    figure = Figure(figsize=(5.2 * len(parts), 6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        2, len(parts), height_ratios=[3, 1], sharex=True, sharey="row", squeeze=False
    )
    for (curve, counts), part in zip(grid.T, parts, strict=True):
        curve.plot([0.5, 1], [0.5, 1], color="0.6", linestyle=":", label="as they should be")
        for offset, (name, of, style) in enumerate(
            (("before", before, "o--"), ("after", after, "s-"))
        ):
            if (found := of.get(part)) is None:
                continue
            _draw(curve, counts, found, f"{name}, ECE {found.ece:.3f}", style, offset)
        curve.set_title(f"{part}, {before[part].rows} rows")
        curve.legend(loc="lower right", fontsize="small")
        counts.set_xlabel("confidence: probability of the label given")
    grid[0][0].set_ylabel("share of right labels")
    grid[1][0].set_ylabel("rows")
    grid[0][0].set(xlim=(0.46, 1.02), ylim=(-0.03, 1.03))
    figure.savefig(path, format="png", dpi=120)


def _draw(curve: Any, counts: Any, found: Reliability, label: str, style: str, offset: int) -> None:
    confidence = np.array([entry.confidence for entry in found.bins])
    accuracy = [entry.accuracy for entry in found.bins]
    rows = [entry.rows for entry in found.bins]
    (line,) = curve.plot(confidence, accuracy, style, linewidth=1, markersize=3, label=label)
    # A point of two rows must not look like one of fifty.
    area = 10 + 200 * np.array(rows) / found.rows
    curve.scatter(confidence, accuracy, s=area, color=line.get_color())
    # Side by side around the middle of their bin.
    middle = (np.ceil(confidence * BINS) - 0.5) / BINS + (offset - 0.5) * 0.4 / BINS
    counts.bar(middle, rows, width=0.4 / BINS, color=line.get_color())


def _gap(
    confidence: Floats, right: NDArray[np.bool_], bins: NDArray[np.int64], weight: Floats
) -> float:
    """Mean distance of accuracy and confidence over the bins, weighted. weight: sums to 1."""
    difference = np.bincount(bins, weight * (right - confidence))
    return float(np.abs(difference).sum())


def _by_width(confidence: Floats) -> NDArray[np.int64]:
    """Bin m holds (m / BINS, (m + 1) / BINS]."""
    return (np.ceil(confidence * BINS) - 1).astype(np.int64)


def _by_mass(confidence: Floats) -> NDArray[np.int64]:
    """BINS bins of about as many rows each; equal confidences stay together."""
    _, place, count = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - count / 2) / len(confidence)
    return np.minimum(middle * BINS, BINS - 1).astype(np.int64)[place]


def _balanced(truth: NDArray[np.bool_]) -> Floats:
    """Weights that sum to 1, half of it for each class where both are there."""
    if truth.all() or not truth.any():
        return np.full(len(truth), 1 / len(truth))
    return truth * (0.5 / int(truth.sum())) + ~truth * (0.5 / int((~truth).sum()))


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
