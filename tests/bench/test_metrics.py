"""Figures against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from proguard_edge.bench.metrics import measure


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
        assert found.fpr == pytest.approx(said[~truth].mean())


def test_figures_of_a_missing_class_are_none() -> None:
    found = measure([0.9, 0.2], [True, True])
    assert (found.recall, found.fpr, found.auroc) == (0.5, None, None)
    found = measure([0.9, 0.2], [False, False])
    assert (found.recall, found.f1, found.fpr) == (None, None, 0.5)


def test_a_score_of_exactly_one_half_is_unsafe() -> None:
    assert measure([0.5, 0.1], [True, False]).recall == 1.0
