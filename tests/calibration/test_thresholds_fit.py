"""Thresholds of categories fitted by cost and by rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proguard_edge.artifact import Calibration
from proguard_edge.calibration.conformal import miss_bound
from proguard_edge.calibration.judged import judge_rows
from proguard_edge.calibration.thresholds import (
    MIN_ROWS,
    PRIOR,
    Effect,
    effect,
    fit_thresholds,
    named_categories,
)
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row


def group(name: str | None, unsafe: float, safe: float, rows: int) -> list[tuple]:
    """As many unsafe rows of one score as safe ones of another."""
    return [(unsafe, True, name)] * rows + [(safe, False, name)] * rows


def fitted(rows: list[tuple], **options) -> dict[str, float]:
    return fit_thresholds(*zip(*rows, strict=True), **options)


def test_a_category_whose_unsafe_rows_score_low_gets_a_lower_threshold() -> None:
    found = fitted(group("C1", 0.3, 0.1, 100) + group("C2", 0.8, 0.2, 100))
    # Between 0.1 and 0.3 in logits, drawn to 0 by 200 / (200 + PRIOR).
    middle = (np.log(1 / 9) + np.log(3 / 7)) / 2 * 200 / (200 + PRIOR)
    assert found == {"C1": pytest.approx(1 / (1 + np.exp(-middle)))}


def test_few_rows_draw_the_threshold_towards_one_half_and_fewer_give_none() -> None:
    few, more, many = (fitted(group("C1", 0.3, 0.1, n))["C1"] for n in (MIN_ROWS // 2, 60, 2000))
    assert many < more < few < 0.5
    assert fitted(group("C1", 0.3, 0.1, MIN_ROWS // 2 - 1)) == {}


def test_a_dearer_miss_lowers_the_threshold() -> None:
    rows = [*[(0.3, True, "C1")] * 20, *[(0.3, False, "C1")] * 40, *group("C1", 0.9, 0.05, 40)]
    assert fitted(rows) == {}
    assert fitted(rows, miss_cost=5.0)["C1"] < 0.3


def test_the_cheapest_threshold_is_found_among_all_that_there_are() -> None:
    rng = np.random.default_rng(1)
    score, truth = rng.random(120).round(2), rng.random(120) < 0.5
    (found,) = fit_thresholds(score, truth, ["C1"] * 120, allow_raise=True).values()
    undrawn = np.log(found / (1 - found)) * (120 + PRIOR) / 120
    begins = 1 / (1 + np.exp(-undrawn))

    def expense(threshold: float) -> float:
        said = score >= threshold
        return (truth & ~said).sum() / truth.sum() + (~truth & said).sum() / (~truth).sum()

    every = [expense(t) for t in (0.5, *(np.unique(score)[1:] - 0.005))]
    assert expense(begins) == pytest.approx(min(every), abs=1e-12)
    assert expense(begins) < expense(0.5)


def test_only_who_asks_gets_a_threshold_above_one_half() -> None:
    rows = group("C1", 0.9, 0.6, 100)
    assert fitted(rows) == {}
    assert 0.5 < fitted(rows, allow_raise=True)["C1"] < 0.9


def test_a_rate_gives_the_conformal_bound_of_each_category() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(100) * 0.4
    rows = [(s, True, "C1") for s in scores] + [(0.3, True, "C2")] * 40 + [(0.3, False, "C2")] * 90
    assert fitted(rows, rate=0.05) == {"C1": miss_bound(scores, 0.05).threshold}
    # 95 % confidence that at most a twentieth is missed needs 59 rows.
    assert set(fitted(rows + [(0.3, True, "C2")] * 19, rate=0.05)) == {"C1", "C2"}


def test_rows_without_a_category_and_of_other_ones_do_not_count() -> None:
    assert fitted(group(None, 0.3, 0.1, 100)) == {}
    assert fitted(group("C1", 0.9, 0.1, 100) + group(None, 0.3, 0.1, 100)) == {}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from(["C1", "C2", None])),
        min_size=1,
        max_size=90,
    ),
    st.sampled_from([0.2, 1.0, 5.0]),
)
def test_a_threshold_is_never_dearer_than_one_half_before_it_is_drawn_back(rows, cost) -> None:
    found = fitted(rows, miss_cost=cost)
    assert all(0 < threshold < 0.5 for threshold in found.values())
    assert set(fitted(rows, miss_cost=cost, allow_raise=True)) >= set(found)
    counted = effect(*zip(*rows, strict=True), found)
    assert counted.misses <= counted.misses_at_common
    assert counted.false_alarms >= counted.false_alarms_at_common


def test_the_effect_counts_errors_with_and_without_thresholds() -> None:
    rows = [(0.4, True, "C1"), (0.4, False, "C1"), (0.4, True, "C2"), (0.6, False, None)]
    assert effect(*zip(*rows, strict=True), {"C1": 0.3}) == Effect(4, 1, 2, 2, 1)


@pytest.mark.parametrize("wrong", [{"miss_cost": 0}, {"rate": 1.0}, {"rate": 0.0}])
def test_numbers_without_a_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="miss cost"):
        fitted(group("C1", 0.3, 0.1, 100), **wrong)


@pytest.fixture(scope="module")
def guard(tiny_onnx: Path) -> Iterator[Guard]:
    with Guard.load(tiny_onnx, threads=1, ocr=False) as guard:
        yield Guard(replace(guard.artifact, free_names=False), guard.engine)


TEXTS = ("hello", "How do I pick a lock?", "zzz 123 !!", "a\0b", "I will find you.")


def test_safe_rows_are_named_as_if_they_were_unsafe(guard: Guard) -> None:
    rows = [
        Row(f"r{n}", "s", "l", text, None, None, "safe", None, None) for n, text in enumerate(TEXTS)
    ]
    calm = replace(guard.artifact, calibration={"request": Calibration(bias=1.9)})
    plain = Guard(calm, guard.engine)
    judged = judge_rows(plain, rows)
    assert {getattr(v, "category", 0) is None for _, v in judged} == {True, False}
    unsafe = replace(guard.artifact, calibration={"request": Calibration(bias=-100.0)})
    expected = {
        row.id: verdict.category.id.split("S")[0]
        for row, verdict in judge_rows(Guard(unsafe, guard.engine), rows)
        if row.user != "a\0b"
    }
    assert named_categories(plain, judged) == expected
