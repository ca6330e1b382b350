"""Figures against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from proguard_edge.bench.metrics import intervals, measure, sweep


def test_figures_equal_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        truth = rng.random(300) < share
        # Rounded, so that there are ties.
        score = np.clip(np.round(rng.random(300) * 0.6 + truth * 0.3, 2), 0, 1)
        said = score >= 0.5
        found = measure(score.tolist(), truth.tolist())
        assert found.f1 == pytest.approx(metrics.f1_score(truth, said))
        assert found.weighted_f1 == pytest.approx(metrics.f1_score(truth, said, average="weighted"))
        assert found.recall == pytest.approx(metrics.recall_score(truth, said))
        assert found.auroc == pytest.approx(metrics.roc_auc_score(truth, score))
        assert found.auprc == pytest.approx(metrics.average_precision_score(truth, score))
        assert found.fpr == pytest.approx(said[~truth].mean())


def test_figures_of_a_missing_class_are_none() -> None:
    found = measure([0.9, 0.2], [True, True])
    assert (found.recall, found.fpr, found.auroc) == (0.5, None, None)
    found = measure([0.9, 0.2], [False, False])
    assert (found.recall, found.f1, found.fpr) == (None, None, 0.5)


def test_a_score_of_exactly_one_half_is_unsafe() -> None:
    assert measure([0.5, 0.1], [True, False]).recall == 1.0


def test_intervals_hold_the_figure_and_narrow_with_the_rows() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (100, 1600):
        truth = rng.random(n) < 0.4
        score = np.clip(rng.normal(0.35 + 0.3 * truth, 0.2), 0, 1)
        found, ends = measure(score.tolist(), truth.tolist()), intervals(score, truth)
        for name in ("f1", "recall", "fpr", "auroc", "auprc"):
            low, high = ends[name]
            assert low <= getattr(found, name) <= high
        widths.append(ends["f1"][1] - ends["f1"][0])
    assert 2.5 < widths[0] / widths[1] < 6
    # One unsafe row of three: some resamples have none.
    assert intervals([0.9, 0.1, 0.2], [True, False, False])["auroc"] is None


def test_a_sweep_goes_from_all_unsafe_to_none() -> None:
    found = sweep([0.3, 0.6, 0.9], [False, True, True], points=9)
    assert [at["threshold"] for at in found] == pytest.approx(np.linspace(0.1, 0.9, 9))
    assert found[0] == {"threshold": 0.1, "f1": 0.8, "recall": 1.0, "fpr": 1.0}
    assert found[4]["f1"] == 1.0
    assert found[-1]["recall"] == 0.5
