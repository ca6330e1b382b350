"""Platt scaling."""

from __future__ import annotations

import numpy as np
import pytest

from proguard_edge.calibration.scores import fit_calibration


def test_the_true_bias_and_temperature_are_found_again() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(2.0, 3.0, 200_000)
    # As many of each class in truth, so that balancing changes nothing.
    unsafe = rng.random(len(d)) < 1 / (1 + np.exp(-(d - 2.0) / 1.5))
    found = fit_calibration(d, unsafe)
    assert found.bias == pytest.approx(2.0, abs=0.05)
    assert found.temperature == pytest.approx(1.5, abs=0.05)


def test_the_share_of_the_classes_does_not_move_the_threshold() -> None:
    rng = np.random.default_rng(1)
    safe, unsafe = rng.normal(-1, 1, 50_000), rng.normal(3, 1, 50_000)
    many = fit_calibration(np.r_[safe, unsafe], np.r_[np.zeros(50_000), np.ones(50_000)] > 0)
    few = fit_calibration(np.r_[safe, unsafe[:2500]], np.r_[np.zeros(50_000), np.ones(2500)] > 0)
    assert many.bias == pytest.approx(1.0, abs=0.03)
    assert few.bias == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("unsafe", [[True, True, True, True], [True, True, False, False]])
def test_scores_that_say_nothing_are_refused(unsafe: list[bool]) -> None:
    with pytest.raises(ValueError, match="calibrat"):
        fit_calibration(np.array([-2.0, -1.0, 1.0, 2.0]), np.array(unsafe))


def test_a_miss_that_costs_more_moves_the_threshold_by_the_logarithm_of_its_cost() -> None:
    rng = np.random.default_rng(2)
    safe, unsafe = rng.normal(-1, 1, 50_000), rng.normal(1, 1, 50_000)
    scores, truth = np.r_[safe, unsafe], np.r_[np.zeros(50_000), np.ones(50_000)] > 0
    equal, dear = fit_calibration(scores, truth), fit_calibration(scores, truth, miss_cost=4.0)
    # Two normal classes one apart from zero: the log odds are 2 d.
    assert equal.bias == pytest.approx(0.0, abs=0.03)
    assert dear.bias == pytest.approx(-np.log(4) / 2, abs=0.05)
    assert dear.temperature == pytest.approx(equal.temperature, rel=0.05)
    with pytest.raises(ValueError, match="cannot cost"):
        fit_calibration(scores, truth, miss_cost=0)
