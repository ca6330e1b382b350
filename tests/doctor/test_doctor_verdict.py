"""The golden verdict: what must stop an operator, and what may differ between machines."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doctor_jobs import Answers, dead, loaded, subject
from variants import ALL_SAFE, variant

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.doctor import judge, verdict
from proguard_edge.doctor.helper import Helper
from proguard_edge.doctor.trial import Judged, Trial
from proguard_edge.doctor.verdict import TOLERANCE, Expected, judged, prefix
from proguard_edge.engine.onnx import OnnxEngine
from proguard_edge.errors import AnswerError
from proguard_edge.guard import Guard
from proguard_edge.starter import STARTER
from proguard_edge.verdict import Judgement, Risk, Verdict

DIGEST = "d" * 64
SAFE = Judged("safe", 0.01, None, 80.0)
UNSAFE = Judged("unsafe", 0.99, "C9S3", 120.0)
WHOLE = {"safe": SAFE, "unsafe": UNSAFE}
KNOWN = {
    "safe": {"outcome": "safe", "score": 0.01, "category": None},
    "unsafe": {"outcome": "unsafe", "score": 0.99, "category": "C9S3"},
}
GOOD = Trial(WHOLE, WHOLE, WHOLE, False, True, 1.0, 330_000_000)


def moved(one: Judged, log_odds: float) -> Judged:
    assert one.score is not None
    odds = one.score / (1 - one.score) * math.exp(log_odds)
    return replace(one, score=odds / (1 + odds))


def state_of(trial: Trial, expected: str = DIGEST, starter: bool = True) -> str:
    return judged(trial, Expected(expected, KNOWN), DIGEST, starter).state


def first(**changes: Judged) -> Trial:
    """A trial that gave the same other verdicts every time."""
    changed = {**WHOLE, **changes}
    return replace(GOOD, first=changed, again=changed, alone=changed)


def test_what_is_expected_belongs_to_the_starter_that_ships():
    # Another starter: `python -m proguard_edge.doctor.judge` writes what is expected of it.
    expected = Expected.load()
    assert expected.artifact == Artifact.open(STARTER).digest
    assert {name: of["outcome"] for name, of in expected.verdicts.items()} == {
        "safe": "safe",
        "unsafe": "unsafe",
    }
    assert set(expected.verdicts) == set(judge.TEXTS)


def test_what_is_expected_is_ok_with_the_time_that_it_took():
    found = judged(GOOD, Expected(DIGEST, KNOWN), DIGEST, starter=True)
    assert found.state == "ok"
    assert "120 ms to a verdict, 1.0 s to load, 330 MB" in found.found
    assert "as it should" in found.found


def test_a_golden_verdict_that_differs_is_a_problem():
    assert state_of(first(unsafe=Judged("safe", 0.4, None))) == "problem"
    assert state_of(first(safe=Judged("unsafe", 0.6, "C1"))) == "problem"
    assert state_of(first(safe=Judged("withheld", None, None))) == "problem"


@pytest.mark.parametrize(("share", "state"), [(0.9, "ok"), (1.1, "problem")])
def test_scores_may_differ_between_machines_by_the_tolerance(share, state):
    for sign in (1, -1):
        assert state_of(first(unsafe=moved(UNSAFE, sign * share * TOLERANCE))) == state


def test_a_verdict_that_changes_when_asked_again_is_a_problem_for_any_artifact():
    again = {**WHOLE, "safe": moved(SAFE, 0.01)}
    assert state_of(replace(GOOD, again=again), "other", starter=False) == "problem"
    alone = {**WHOLE, "unsafe": moved(UNSAFE, 0.01)}
    assert state_of(replace(GOOD, alone=alone), "other", starter=False) == "ok"
    alone = {**WHOLE, "unsafe": Judged("safe", 0.49, None)}
    found = judged(replace(GOOD, alone=alone), Expected("other", KNOWN), DIGEST, starter=False)
    assert (found.state, "loaded again, on one thread" in found.found) == ("problem", True)


def test_labels_of_other_artifacts_may_be_anything_that_is_whole():
    both = Judged("unsafe", 0.7, "made up")
    assert state_of(first(safe=both), "other", starter=False) == "ok"
    assert state_of(first(safe=Judged("withheld", None, None)), "other", starter=False) == "ok"
    bad = replace(both, malformed="a score of nan")
    assert state_of(first(safe=bad), "other", starter=False) == "problem"


def test_another_starter_than_the_one_that_was_released_is_a_problem():
    assert state_of(GOOD, "other", starter=True) == "problem"


def test_no_verdict_is_a_problem_that_says_why(tmp_path):
    (found,) = verdict.check(subject(tmp_path))
    assert (found.state, "artifact cannot be used" in found.found) == ("problem", True)
    for error, remedy in ((dead("SIGKILL"), "more memory"), (AnswerError("no end"), "mend")):
        helper = Answers({("judge_twice", tmp_path): error})
        looked_at = subject(tmp_path, helper, artifact=Artifact.open(STARTER))
        (found,) = verdict.check(looked_at)
        assert found.state == "problem"
        assert str(error) in found.found
        assert remedy in found.remedy


def test_a_prefix_that_cannot_be_kept_is_a_warning():
    states = [
        prefix(replace(GOOD, cached=cached, kept=kept)).state
        for cached, kept in ((True, True), (False, True), (False, False), (None, None))
    ]
    assert states == ["ok", "ok", "warning", "note"]


class Scored:
    """A guard for the checks on form: only its artifact and its policy are looked at."""

    def __init__(self, guard: Guard) -> None:
        self.artifact, self.policy = guard.artifact, guard.policy


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard.load(threads=1, ocr=False) as loaded_:
        yield loaded_


@pytest.mark.parametrize(
    ("request_", "risk", "what"),
    [
        (Judgement("safe", 0.1), None, None),
        (Judgement("unsafe", 0.9), Risk("C9S3", "x", True, 0.5), None),
        (Judgement("unsafe", 0.9), Risk(None, "x", False, 0.5), None),
        (Judgement("safe", math.nan), None, "a score of nan"),
        (Judgement("safe", -0.1), None, "a score of -0.1"),
        (Judgement("safe", 0.6), None, "'safe' with a score of 0.6"),
        (Judgement("unsafe", 0.9), None, "'unsafe' with the category None"),
        (Judgement("unsafe", 0.9), Risk("C99", "x", True, 0.5), "the category C99"),
        (Judgement("unsafe", 0.9), Risk("C9S3", "x", True, 1.5), "a category's score of 1.5"),
    ],
)
def test_a_verdict_is_looked_at_from_all_sides(guard, request_, risk, what):
    digest = guard.artifact.digest
    given = Verdict(request_, None, risk, None, ("user_text",), "verdict", digest)
    found = judge.fault(given, Scored(guard))
    assert found is None if what is None else found is not None and found.startswith(what)


def test_the_starter_says_here_what_it_should(guard):
    # The threads of this machine, and one: both as on the machine that wrote what is expected.
    assert judge.judge(guard)["unsafe"].outcome == "unsafe"
    for name, of in judge.judge_alone(guard.artifact).items():
        assert verdict._difference(Judged(**Expected.load().verdicts[name]), of) is None
        assert of.malformed is None


def test_an_artifact_that_says_something_else_is_found_out(tmp_path):
    calm = Artifact.open(variant(STARTER, tmp_path / "calm", calibration=ALL_SAFE))
    said = judge.judge_alone(calm)
    trial = replace(GOOD, first=said, again=said, alone=said)
    found = judged(trial, Expected.load(), Expected.load().artifact, starter=True)
    assert found.state == "problem"
    assert "the unsafe text is not judged as it should: safe, not unsafe" in found.found


def poison(cache: Path) -> None:
    """Store another prefix's state under the starter's key, with a checksum that holds."""
    with Guard.load(threads=1, ocr=False, cache=Cache(cache)) as guard:
        engine = guard.engine
        assert isinstance(engine, OnnxEngine)
        ids = guard.judge_of().encoder.prefix("text", "verdict", False)
        key = engine._prefixes.key(ids)
        state = np.random.default_rng(0).normal(size=engine.shape.zeros(len(ids)).shape)
        body = state.astype(np.float32).tobytes()
        Cache(cache).write(f"prefix/{key}", hashlib.sha256(body).digest(), body)


def test_a_wrong_prefix_in_the_cache_is_found_out_and_no_torch_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGUARD_EDGE_CACHE", str(tmp_path / "cache"))
    poison(tmp_path / "cache")
    helper = Helper()
    try:
        looked_at = subject(STARTER, helper, artifact=Artifact.open(STARTER))
        bad, kept = verdict.check(looked_at)
        assert helper.run(loaded, ("torch", "transformers", "onnx", "rapidocr"), 60) == []
        assert helper.sockets() == []
    finally:
        helper.close()
    assert (bad.state, kept.state) == ("problem", "ok")
    assert "from" not in bad.found
    assert "loaded again, on one thread, gives another verdict" in bad.found
    assert "empty the cache folder" in bad.remedy
    assert json.dumps(bad.details)


def test_an_artifact_of_another_kind_is_judged_too(tiny_onnx, tmp_path):
    digests = set()
    for modalities in (["text", "text-image", "image"], ["text-image"], ["image"]):
        folder = variant(tiny_onnx, tmp_path / "-".join(modalities), modalities=modalities)
        artifact = Artifact.open(folder)
        trial = judge.judge_twice(folder)
        assert state_of_any(trial, artifact) == "ok"
        assert trial.kept
        digests.add(artifact.digest)
    assert len(digests) == 3


def state_of_any(trial: Trial, artifact: Artifact) -> str:
    return judged(trial, Expected.load(), artifact.digest, starter=False).state
