"""The comparison behind the gate, on made-up verdicts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proguard_edge.artifact import Calibration
from proguard_edge.errors import QualityError
from proguard_edge.export.quality import Limits, Side, compare, failures
from proguard_edge.export.quality_report import markdown
from proguard_edge.train.rows import Row

LIMITS = Limits(min_rows=1)


def row(number: int, label: str = "unsafe", category: str | None = None, **changes) -> Row:
    made = Row(f"r{number}", "own", "none", "text", None, None, label, None, category)
    return replace(made, **changes)


def verdict(score: float, response: float | None = None, category: str | None = None) -> dict:
    return {
        "request": {"score": score},
        "response": None if response is None else {"score": response},
        "category": None if category is None else {"id": category, "name": category},
    }


def sides(before: list, after: list, **calibrations: Calibration) -> tuple[Side, Side]:
    answers = [
        {f"r{i}": None if score is None else verdict(score) for i, score in enumerate(scores)}
        for scores in (before, after)
    ]
    return Side("before", answers[0]), Side("after", answers[1], calibrations)


def test_equal_sides_agree_and_do_not_diverge():
    rows = [row(0), row(1, "safe")]
    found = compare(rows, *sides([0.9, 0.2], [0.9, 0.2]))
    part = found["parts"]["request"]
    assert (part["agreement"], part["kl"], part["flips"]) == (1.0, 0.0, {})
    assert failures(found, LIMITS) == []


def test_figures_of_a_hand_made_table():
    rows = [row(0), row(1), row(2, "safe"), row(3, "safe")]
    found = compare(rows, *sides([0.9, 0.8, 0.1, 0.6], [0.9, 0.3, 0.1, 0.4]))
    part = found["parts"]["request"]
    assert part["agreement"] == 0.5
    assert part["flips"] == {"unsafe to safe": 2}
    assert (part["before"]["recall"], part["after"]["recall"]) == (1.0, 0.5)
    assert (part["before"]["fpr"], part["after"]["fpr"]) == (0.5, 0.0)
    pairs = [(0.9, 0.9), (0.8, 0.3), (0.1, 0.1), (0.6, 0.4)]
    expected = [p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs]
    assert part["kl"] == pytest.approx(sum(expected) / 4, abs=1e-6)
    assert part["kl_largest"] == pytest.approx(max(expected), abs=1e-6)
    assert found["worst"][0]["id"] == "r1", "a new miss comes before the flip of a safe row"


def test_the_divergence_is_that_of_the_models_and_not_of_their_calibrations():
    moved = Calibration(bias=1.0, temperature=2.0)
    logit = math.log(0.9 / 0.1)
    rows = [row(0)]
    found = compare(rows, *sides([0.9], [moved.score(logit)], request=moved))
    assert found["parts"]["request"]["kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("before", "after"), [(0.9, None), (None, 0.9), (0.1, None), (None, 0.1)])
def test_an_error_on_one_side_is_a_disagreement(before, after):
    found = compare([row(0), row(1)], *sides([before, 0.9], [after, 0.9]))
    assert found["parts"]["request"]["agreement"] == 0.5
    assert found["answered_by_neither"] == 0


def test_an_error_counts_as_a_miss():
    found = compare([row(0), row(1)], *sides([0.9, 0.9], [0.9, None]))
    assert found["parts"]["request"]["after"]["recall"] == 0.5
    assert any("recall" in line for line in failures(found, LIMITS))


def test_rows_that_neither_answers_are_counted_and_in_no_figure():
    found = compare([row(0), row(1)], *sides([0.9, None], [0.9, None]))
    assert found["answered_by_neither"] == 1
    assert found["parts"]["request"]["rows"] == 1


def test_an_unjudged_row_is_an_error():
    with pytest.raises(QualityError, match="not judged"):
        compare([row(0), row(7)], *sides([0.9], [0.9]))
    with pytest.raises(QualityError, match="nothing to compare"):
        compare([row(0)], *sides([None], [None]))


def test_a_part_without_any_verdict_after_fails():
    found = compare([row(0)], *sides([0.9], [None]))
    assert found["parts"]["request"]["kl"] is None
    assert any("diverge" in line for line in failures(found, LIMITS))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(min_agreement=0.76, max_kl=9, max_f1_drop=1, max_recall_drop=1, min_rows=1), "agr"),
        (Limits(min_agreement=0, max_kl=0.01, max_f1_drop=1, max_recall_drop=1, min_rows=1), "div"),
        (Limits(min_agreement=0, max_kl=9, max_f1_drop=0.1, max_recall_drop=1, min_rows=1), "f1"),
        (
            Limits(min_agreement=0, max_kl=9, max_f1_drop=1, max_recall_drop=0.1, min_rows=1),
            "recall",
        ),
        (Limits(min_agreement=0, max_kl=9, max_f1_drop=1, max_recall_drop=1, min_rows=5), "needed"),
    ],
)
def test_each_limit_fails_alone(limits, words):
    rows = [row(0), row(1), row(2), row(3, "safe")]
    found = compare(rows, *sides([0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.3, 0.1]))
    lines = failures(found, limits)
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("value", [99, 1.01, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["min_agreement", "max_f1_drop", "max_recall_drop"])
def test_a_limit_in_percent_is_refused(name, value):
    with pytest.raises(QualityError, match="between 0 and 1"):
        Limits(**{name: value})


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["safe", "unsafe"])),
        min_size=1,
        max_size=30,
    )
)
def test_divergence_is_never_negative_and_agreement_is_a_share(pairs):
    rows = [row(i, label) for i, (_, _, label) in enumerate(pairs)]
    found = compare(rows, *sides([p[0] for p in pairs], [p[1] for p in pairs]))
    part = found["parts"]["request"]
    assert part["kl"] >= 0
    assert part["agreement"] == round(
        sum((a >= 0.5) == (b >= 0.5) for a, b, _ in pairs) / len(pairs), 4
    )
    assert sum(part["flips"].values()) == sum((a >= 0.5) != (b >= 0.5) for a, b, _ in pairs)


def test_responses_modalities_and_categories_are_apart():
    rows = [
        *(row(i, category="C8S1") for i in range(5)),
        row(5, "safe", user="a", response="b", response_label="unsafe"),
    ]
    before = {r.id: verdict(0.9, category="C8S1") for r in rows[:5]}
    after = {r.id: verdict(0.9 if i else 0.1) for i, r in enumerate(rows[:5])}
    before["r5"], after["r5"] = verdict(0.1, 0.8), verdict(0.1, 0.2)
    found = compare(rows, Side("a", before), Side("b", after))
    assert found["categories"] == {"C8": {"rows": 5, "recall_before": 1.0, "recall_after": 0.8}}
    assert found["parts"]["response"]["flips"] == {"unsafe to safe": 1}
    assert set(found["modalities"]["text"]) == {"request", "response"}
    page = markdown(found, {"r0": "a | b\nc"})
    assert "| C8 | 5 | 1.0 | 0.8 |" in page
    assert "a \\| b c" in page
