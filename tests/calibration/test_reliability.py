"""Calibration error, Brier score and plot, against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proguard_edge.calibration.reliability import plot, reliability

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80)


def test_the_error_is_the_mean_distance_of_accuracy_and_confidence() -> None:
    # Confidences 0.9 (three right of four) and 0.6 (one right of two), in bins 13/15–14/15 and
    # 8/15–9/15: (4 · |0.75 − 0.9| + 2 · |0.5 − 0.6|) / 6.
    found = reliability([0.9, 0.9, 0.1, 0.1, 0.6, 0.4], [True, True, False, True, True, True])
    assert found.ece == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert found.brier == pytest.approx((3 * 0.01 + 0.81 + 0.16 + 0.36) / 6)
    assert [(b.confidence, b.accuracy, b.rows) for b in found.bins] == [
        pytest.approx((0.6, 0.5, 2)),
        pytest.approx((0.9, 0.75, 4)),
    ]


def test_bins_of_equal_mass_part_what_one_wide_bin_joins() -> None:
    # All confidences in one bin of width: right where surer, wrong where less sure.
    scores = [0.87] * 10 + [0.93] * 10
    found = reliability(scores, [False] * 10 + [True] * 10)
    assert found.ece == pytest.approx(abs(0.5 - 0.9))
    assert found.ece_adaptive == pytest.approx((0.87 + 0.07) / 2)


def test_the_balanced_error_weighs_the_classes_alike() -> None:
    # Safe rows are right at 0.9, unsafe ones wrong: with balanced classes half is right.
    found = reliability([0.1] * 100, [False] * 90 + [True] * 10)
    assert found.ece == pytest.approx(0, abs=1e-12)
    assert found.ece_balanced == pytest.approx(0.4)


def test_scores_that_are_probabilities_have_a_small_error_and_bent_ones_a_large_one() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-logits))
    right = reliability(1 / (1 + np.exp(-logits)), truth)
    sure = reliability(1 / (1 + np.exp(-3 * logits)), truth)
    # The expected error of 8 bins of some 2,500 rows each is about 0.8 · sqrt(0.2 / 2500) = 0.007.
    assert max(right.ece, right.ece_adaptive, right.ece_balanced) < 0.015
    assert min(sure.ece, sure.ece_adaptive, sure.ece_balanced) > 0.1
    assert sure.brier > right.brier


@settings(deadline=None)
@given(PAIRS, st.randoms())
def test_figures_are_shares_and_do_not_depend_on_the_order(pairs, random) -> None:
    found = reliability(*zip(*pairs, strict=True))
    random.shuffle(pairs)
    mixed = reliability(*zip(*pairs, strict=True))
    for name in ("ece", "ece_adaptive", "ece_balanced", "brier"):
        assert 0 <= getattr(found, name) <= 1
        assert getattr(mixed, name) == pytest.approx(getattr(found, name), abs=1e-9)
    assert sum(b.rows for b in found.bins) == found.rows == len(pairs)


@pytest.mark.parametrize(
    ("scores", "truth"),
    [([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True]), ([[0.5]], [[True]])],
)
def test_what_are_no_scores_is_refused(scores, truth) -> None:
    with pytest.raises(ValueError, match=r"reliability needs|from 0 to 1"):
        reliability(scores, truth)


def test_the_plot_is_a_picture_of_both_parts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    one = reliability([0.9, 0.2, 0.7, 1.0, 0.0], [True, False, False, True, False])
    sizes = []
    for parts in (("request",), ("request", "response")):
        of = dict.fromkeys(parts, one)
        plot(of, of, tmp_path / "r.png")
        with Image.open(tmp_path / "r.png") as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
            sizes.append(image.width)
    assert sizes[1] == 2 * sizes[0]
