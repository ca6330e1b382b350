"""Per-category thresholds: the category decides a borderline score, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proguard_edge.answer import Answer
from proguard_edge.artifact import Calibration, MissBound
from proguard_edge.decoding import Decoded
from proguard_edge.errors import ArtifactError
from proguard_edge.guard import Guard
from proguard_edge.judge import Judge
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.thresholds import Thresholds
from proguard_edge.verdict import Verdict

TEXT = "How do I pick a lock?"
LONG = " ".join(f"sentence number {i} of many;" for i in range(150))
Other = Callable[..., Guard]


@pytest.fixture(scope="module")
def guard(tiny_onnx: Path) -> Iterator[Guard]:
    with Guard.load(tiny_onnx, threads=1, ocr=False) as guard:
        # Ids alone, so that every category can have a threshold.
        yield Guard(replace(guard.artifact, free_names=False), guard.engine)


@pytest.fixture
def other(guard: Guard) -> Other:
    """The same engine under a manifest that says something else."""
    return lambda **changes: Guard(replace(guard.artifact, **changes), guard.engine)


def lasting(verdict: Any) -> Verdict:
    assert isinstance(verdict, Verdict), verdict
    return replace(verdict, timings_ms={})


def logit(score: float) -> float:
    return math.log(score / (1 - score))


def moved(score: float, threshold: float) -> float:
    return 1 / (1 + math.exp(logit(threshold) - logit(score)))


def at(score: float, own: float) -> Calibration:
    """The calibration under which what scores `own` without one scores `score`."""
    return Calibration(bias=logit(own) - logit(score))


@pytest.fixture(scope="module")
def calm(guard: Guard) -> dict[str, Calibration]:
    """A calibration under which TEXT scores 0.4."""
    return {"request": at(0.4, guard.moderate(TEXT).request.score)}


@pytest.fixture(scope="module")
def category(guard: Guard) -> str:
    """What TEXT would be, were it unsafe."""
    unsafe = {"request": Calibration(bias=-100.0)}
    verdict = Guard(replace(guard.artifact, calibration=unsafe), guard.engine).moderate(TEXT)
    assert verdict.category is not None
    assert verdict.category.id is not None
    return verdict.category.id


def main_of(category: str) -> str:
    return category.split("S")[0]


def thresholds(category: str, score: float, part: str = "request") -> dict[str, Any]:
    return {part: {category: score}}


def test_a_borderline_score_is_unsafe_from_its_category_s_threshold_on(other, calm, category):
    for name in (category, main_of(category)):
        strict = other(calibration=calm, category_thresholds=thresholds(name, 0.3))
        verdict = strict.moderate(TEXT)
        assert verdict.request.label == "unsafe"
        assert verdict.request.score == pytest.approx(moved(0.4, 0.3), abs=1e-6)
        assert verdict.category.id == category
        unsafe = other(calibration={"request": Calibration(bias=-100.0)}).moderate(TEXT)
        assert verdict.category.score == pytest.approx(unsafe.category.score, abs=1e-5)


def test_below_its_category_s_threshold_it_is_safe(other, calm, category):
    verdict = other(
        calibration=calm, category_thresholds={"request": {category: 0.45, "C1": 0.01}}
    ).moderate(TEXT)
    assert verdict.request.label == "safe"
    assert verdict.request.score == pytest.approx(moved(0.4, 0.45), abs=1e-6)
    assert verdict.category is None


def test_a_full_id_goes_before_its_main_category(other, guard):
    given = {"request": {"C8": 0.1, "C8S2": 0.45, "C9S1": 0.2}}
    artifact = other(category_thresholds=given).artifact
    found = Thresholds.of(artifact, guard.policy, guard.policy).by_part["request"]
    assert found == {"C8": 0.1, "C8S1": 0.1, "C8S2": 0.45, "C8S3": 0.1, "C9S1": 0.2}


def test_another_category_s_threshold_changes_nothing_but_the_cost(other, calm, category):
    name = "C1" if main_of(category) != "C1" else "C2"
    plain = other(calibration=calm).moderate(TEXT)
    verdict = other(calibration=calm, category_thresholds=thresholds(name, 0.3)).moderate(TEXT)
    assert verdict.request == plain.request
    assert verdict.category is None
    assert verdict.tokens["content"] == 2 * plain.tokens["content"]


def test_a_score_below_all_thresholds_costs_no_second_look(other, calm, category):
    plain = other(calibration=calm).moderate(TEXT)
    strict = other(calibration=calm, category_thresholds=thresholds(category, 0.41))
    assert lasting(strict.moderate(TEXT)) == lasting(plain)


def test_without_thresholds_and_with_the_common_one_verdicts_are_the_same(guard, other, calm):
    ids = dict.fromkeys(guard.policy.ids, 0.5)
    for calibration in ({}, calm):
        plain = other(calibration=calibration)
        common = other(calibration=calibration, category_thresholds={"request": ids})
        for request in (Request(TEXT), Request("hello", "there"), Request(LONG)):
            expected = lasting(plain.judge(request)).to_json()
            assert lasting(common.judge(request)).to_json() == expected


@pytest.mark.parametrize("mode", ["verdict", "reason"])
def test_what_is_unsafe_at_one_half_stays_so_and_keeps_its_category(other, guard, mode):
    plain = other(calibration={"request": at(0.6, guard.moderate(TEXT).request.score)})
    ids = dict.fromkeys(guard.policy.ids, 0.2)
    strict = other(calibration=plain.artifact.calibration, category_thresholds={"request": ids})
    before, after = plain.moderate(TEXT, mode=mode), strict.moderate(TEXT, mode=mode)
    if mode == "verdict":
        assert before.request.label == "unsafe"
    assert not before.unsafe or (after.unsafe and after.category == before.category)
    assert after.request.score == pytest.approx(moved(before.request.score, 0.2), abs=1e-6)


def test_a_raised_threshold_needs_a_higher_score(other, guard, category):
    calibration = {"request": at(0.6, guard.moderate(TEXT).request.score)}
    raised = other(calibration=calibration, category_thresholds=thresholds(category, 0.7))
    verdict = raised.moderate(TEXT)
    assert (verdict.request.label, verdict.category) == ("safe", None)
    assert verdict.request.score == pytest.approx(moved(0.6, 0.7), abs=1e-6)


def test_a_response_has_thresholds_of_its_own(other, guard):
    ids = dict.fromkeys(guard.policy.ids, 0.3)
    own = guard.moderate(TEXT, response="Use a pick.")
    calibration = {"request": Calibration(bias=100.0)}
    own = other(calibration=calibration).moderate(TEXT, response="Use a pick.")
    calibration["response"] = at(0.4, own.response.score)
    for part, expected in (("response", "unsafe"), ("request", "safe")):
        strict = other(calibration=calibration, category_thresholds={part: ids})
        verdict = strict.moderate(TEXT, response="Use a pick.")
        assert verdict.request.label == "safe"
        assert verdict.response.label == expected
        assert (verdict.category is not None) == (expected == "unsafe")


def test_reasoning_reaches_the_category_of_its_own_thoughts(other, guard):
    own = guard.moderate(TEXT, mode="reason")
    calibration = {"request": at(0.4, own.request.score)}
    unsafe = other(calibration={"request": at(0.9, own.request.score)})
    expected = unsafe.moderate(TEXT, mode="reason")
    ids = dict.fromkeys(guard.policy.ids, 0.3)
    strict = other(calibration=calibration, category_thresholds={"request": ids})
    verdict = strict.moderate(TEXT, mode="reason")
    assert verdict.category.id == expected.category.id
    assert verdict.category.score == pytest.approx(expected.category.score, abs=1e-4)
    assert verdict.reasoning == expected.reasoning == own.reasoning


def test_a_long_text_is_as_bad_as_its_worst_window(other, guard, monkeypatch):
    seen = []
    real = Judge.find

    def watched(self, piece, mode, usage):
        found = real(self, piece, mode, usage)
        seen.append((piece.user, found.decoded))
        return found

    worst = guard.moderate(LONG).request.score
    ids = dict.fromkeys(guard.policy.ids, 0.3)
    strict = other(calibration={"request": at(0.4, worst)}, category_thresholds={"request": ids})
    monkeypatch.setattr(Judge, "find", watched)
    verdict = strict.moderate(LONG)
    pieces = list(seen)
    assert len(pieces) > 1
    assert verdict.request.label == "unsafe"
    assert verdict.request.score == max(found.scores["request"] for _, found in pieces)
    for text, found in pieces:
        assert strict.moderate(text).request.score == found.scores["request"]


def test_alone_and_among_others_the_verdict_is_the_same(other, guard, calm):
    ids = dict.fromkeys(guard.policy.ids, 0.35)
    strict = other(calibration=calm, category_thresholds={"request": ids})
    requests = [Request(TEXT), Request("hello"), Request("zzz 123 !!"), Request(TEXT, "No.")]
    alone = [lasting(strict.judge(request)) for request in requests]
    assert [lasting(v) for v in strict.moderate_many(requests * 2)] == alone * 2


def test_under_a_bound_the_stricter_of_the_two_decides(other, guard, calm, category):
    bound = {"request": (MissBound(0.05, 0.2, 0.95, 100),)}
    for begins, unsafe_from in ((0.3, 0.2), (0.7, 0.2), (0.1, 0.1)):
        given = {
            "calibration": calm,
            "category_thresholds": thresholds(category, begins),
            "miss_bounds": bound,
        }
        bounded = other(**given).artifact.bounded(0.05)
        verdict = Guard(bounded, guard.engine).moderate(TEXT)
        assert verdict.request.label == "unsafe"
        assert verdict.request.score == pytest.approx(moved(0.4, unsafe_from), abs=1e-6)
        for score, expected in ((1.02 * unsafe_from, "unsafe"), (0.98 * unsafe_from, "safe")):
            own = {"request": at(score, guard.moderate(TEXT).request.score)}
            nearby = other(**{**given, "calibration": own}).artifact.bounded(0.05)
            assert Guard(nearby, guard.engine).moderate(TEXT).request.label == expected


def test_another_policy_s_category_of_the_same_id_is_another_category(other):
    strict = other(category_thresholds=thresholds("C8", 0.3))
    own = Policy.default()
    part = Thresholds.of(strict.artifact, own, own.subset(["C8S2", "C1"])).by_part
    assert part == {"request": {"C8": 0.3, "C8S2": 0.3}}
    names = tuple(replace(c, name="Gardening") if c.id == "C8S2" else c for c in own.categories)
    renamed = Thresholds.of(strict.artifact, own, replace(own, categories=names)).by_part
    assert renamed == {"request": {"C8": 0.3, "C8S1": 0.3, "C8S3": 0.3}}
    assert strict.judge_of(own.subset(["C1"]))._thresholds == Thresholds({})


def test_a_threshold_for_a_category_that_the_policy_lacks_is_refused(other):
    with pytest.raises(ArtifactError, match="a threshold for C99"):
        other(category_thresholds=thresholds("C99", 0.3))


@pytest.mark.parametrize("threshold", [1e-9, 0.1, 0.3, 0.5, 0.7, 1 - 1e-9])
@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_rounding_carries_no_score_over_a_threshold(threshold: float, steps: int):
    score = math.nextafter(threshold, steps * math.inf) if steps else threshold
    found = Decoded(Answer("safe", None, None), {"request": score}, 1.0, 0)
    named = Decoded(Answer("unsafe", None, "C1"), {}, 0.7, 3)
    settled = Thresholds({"request": {"C1": threshold, "C2": 1e-9}}).settle(found, named)
    expected = "unsafe" if score >= threshold else "safe"
    assert settled.answer == Answer(expected, None, "C1" if expected == "unsafe" else None)
    assert (settled.scores["request"] >= 0.5) == (expected == "unsafe")


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_scores_that_no_logit_has_keep_their_label(score: float):
    found = Decoded(Answer("safe", None, None), {"request": score}, 1.0, 0)
    named = Decoded(Answer("unsafe", None, "C1"), {}, 0.7, 3)
    settled = Thresholds({"request": {"C1": 0.9}}).settle(found, named)
    assert settled.scores == {"request": score}
