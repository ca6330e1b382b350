"""Guard: the same input gives the same verdict, all of it is looked at, and no failure is one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import proguard_edge.pieces as pieces_module
from proguard_edge.artifact import Calibration
from proguard_edge.engine.onnx import OnnxSequence
from proguard_edge.errors import (
    AnswerError,
    ArtifactError,
    EngineError,
    InputError,
    LimitError,
    ProGuardEdgeError,
    TextError,
)
from proguard_edge.guard import Guard
from proguard_edge.image import load_image
from proguard_edge.judge import Finding, Judge
from proguard_edge.pieces import Piece
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.verdict import Verdict


@pytest.fixture(scope="module")
def guard(tiny_onnx: Path) -> Iterator[Guard]:
    with Guard.load(tiny_onnx, threads=1, ocr=False) as guard:
        yield guard


@pytest.fixture
def other(guard: Guard) -> Callable[..., Guard]:
    """The same engine under a manifest that says something else."""
    return lambda **changes: Guard(replace(guard.artifact, **changes), guard.engine)


def lasting(verdict: Verdict | ProGuardEdgeError) -> Verdict:
    """Without the timings, which no two runs share."""
    assert isinstance(verdict, Verdict), verdict
    return replace(verdict, timings_ms={})


def picture(colour: str = "red", word: str = "HELLO") -> Image.Image:
    image = Image.new("RGB", (80, 60), colour)
    ImageDraw.Draw(image).text((4, 4), word, fill="white")
    return image


def see_through() -> Image.Image:
    """A white word that shows on black only, in an image with alpha."""
    word = picture("black", "SECRET").convert("L")
    return Image.merge("RGBA", (*Image.new("RGB", word.size, "white").split(), word))


ALL_UNSAFE = {part: Calibration(-100.0) for part in ("request", "response")}
LONG = " ".join(f"sentence number {i} of many;" for i in range(150))

REQUESTS = [
    Request("hello"),
    Request("how do I kill a process?", "use the task manager"),
    Request(response="stop the process"),
    Request(images=(picture(),)),
    Request("what is this?", images=(picture("blue"), see_through())),
    Request("what is this?", "a picture", (picture("green"),)),
    Request(LONG),
    Request("naïve 日本語 👩‍👩‍👧"),
]


@pytest.fixture(scope="module")
def alone(guard: Guard) -> list[Verdict]:
    """The verdict on each of REQUESTS."""
    return [lasting(guard.judge(request)) for request in REQUESTS]


def test_the_requests_of_these_tests_have_different_scores(alone):
    assert len({verdict.request.score for verdict in alone}) == len(REQUESTS)


def test_a_verdict_survives_json(guard, other, alone):
    calm = other(calibration={"request": Calibration(100.0)})
    for verdict in (*alone, calm.moderate("hello"), guard.moderate("hello", mode="reason")):
        assert Verdict.from_dict(json.loads(verdict.to_json())) == verdict
        assert "\n" not in verdict.to_json()


def test_evaluated_names_what_was_looked_at_and_nothing_else(alone):
    assert [verdict.evaluated for verdict in alone] == [
        ("user_text",),
        ("user_text", "response"),
        ("response",),
        ("image",),
        ("user_text", "image"),
        ("user_text", "response", "image"),
        ("user_text",),
        ("user_text",),
    ]
    for verdict in alone:
        assert (verdict.response is not None) == ("response" in verdict.evaluated)


def test_the_same_request_gives_the_same_verdict_in_any_company(guard, alone):
    assert [lasting(v) for v in guard.moderate_many(REQUESTS)] == alone
    order = [5, 0, 6, 3, 0, 4, 2, 5, 7, 1]
    mixed = guard.moderate_many(REQUESTS[i] for i in order)
    assert [lasting(v) for v in mixed] == [alone[i] for i in order]


def test_another_policy_and_another_mode_in_between_change_no_verdict(guard, alone):
    small = Policy.default().subset(["C8"])
    for request, expected in zip(REQUESTS, alone, strict=True):
        guard.moderate("hello", policy=small)
        guard.moderate("hello", mode="reason")
        assert lasting(guard.judge(request)) == expected


def test_threads_that_share_a_guard_get_the_verdicts_of_one(guard, alone):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(guard.judge, REQUESTS * 2))
    assert [lasting(verdict) for verdict in found] == alone * 2


def test_a_freshly_loaded_guard_gives_the_same_verdicts(tiny_onnx, alone):
    with Guard.load(tiny_onnx, threads=1, verify=True, ocr=False) as fresh:
        assert [lasting(fresh.judge(request)) for request in REQUESTS[:5]] == alone[:5]


def test_moderate_many_gives_an_error_in_its_place(guard, alone):
    mixed = [REQUESTS[0], Request(""), REQUESTS[1], Request("a\0"), REQUESTS[2]]
    found = list(guard.moderate_many(mixed))
    assert [isinstance(f, TextError) for f in found] == [False, True, False, True, False]
    assert [lasting(f) for f in found[::2]] == alone[:3]


def test_moderate_many_judges_no_request_before_it_is_asked_for(guard):
    taken = []
    running = guard.moderate_many(taken.append(i) or REQUESTS[0] for i in range(3))
    assert taken == []
    next(running)
    assert taken == [0]


class Failing:
    """A decoder that computes `before` times and fails from then on."""

    def __init__(self, real: Any, before: int) -> None:
        self.real, self.left = real, before

    def io_binding(self) -> Any:
        return self.real.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        if self.left == 0:
            raise RuntimeError("[ONNXRuntimeError] out of memory\nand more lines")
        self.left -= 1
        self.real.run_with_iobinding(binding)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_failing_engine_gives_an_error_and_leaves_no_trace(guard, alone, monkeypatch, before):
    with monkeypatch.context() as patch:
        patch.setattr(guard.engine, "_decoder", Failing(guard.engine._decoder, before))
        for request in REQUESTS[:2]:
            with pytest.raises(EngineError, match=r"the decoder failed: .* out of memory$"):
                guard.judge(request)
            guard.engine._decoder.left = before
        (error,) = guard.moderate_many(REQUESTS[:1])
        assert isinstance(error, EngineError)
    assert [lasting(guard.judge(request)) for request in REQUESTS[:3]] == alone[:3]


def test_an_engine_that_fails_on_the_prefix_leaves_no_half_prefix(guard, alone, monkeypatch):
    policy = Policy.default().subset(["C7"])
    with monkeypatch.context() as patch:
        patch.setattr(guard.engine, "_decoder", Failing(guard.engine._decoder, 0))
        with pytest.raises(EngineError):
            guard.moderate("hello", policy=policy)
    assert lasting(guard.judge(REQUESTS[0])) == alone[0]
    with_policy = guard.moderate("hello", policy=policy)
    assert with_policy.request.score != alone[0].request.score


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("passes", [0, 1, 2])
def test_scores_that_are_no_numbers_are_never_a_verdict(guard, alone, monkeypatch, value, passes):
    real, left = OnnxSequence.extend, [passes]

    def broken(self: OnnxSequence, *arguments: Any, **options: Any) -> Any:
        logits = real(self, *arguments, **options)
        left[0] -= 1
        if left[0] < 0:
            logits[0] = value
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(OnnxSequence, "extend", broken)
        for mode in ("verdict", "reason"):
            left[0] = passes
            with pytest.raises(AnswerError, match="not finite"):
                guard.moderate("hello", response="there", mode=mode)
    assert lasting(guard.judge(REQUESTS[0])) == alone[0]


def test_a_closed_guard_gives_an_error(tiny_onnx):
    with Guard.load(tiny_onnx, threads=1) as guard:
        pass
    with pytest.raises(EngineError, match="closed"):
        guard.moderate("hello")


def test_a_text_only_artifact_does_not_judge_images_and_says_what_would(other, alone):
    blind = other(modalities=("text",))
    for ask in (
        lambda: blind.moderate(image=picture()),
        lambda: blind.moderate("hello", picture()),
        lambda: blind.moderate("hello", [picture()], "there"),
    ):
        with pytest.raises(ArtifactError, match="proguard-edge export"):
            ask()
    assert lasting(blind.moderate("hello")) == alone[0]


@pytest.mark.parametrize(
    ("reads", "refused"),
    [
        ("image", ["text", "text-image"]),
        ("text-image", ["text", "image"]),
        ("text image", ["text-image"]),
        ("text-image image", ["text"]),
        ("text text-image", ["image"]),
    ],
)
def test_an_artifact_judges_no_kind_of_conversation_that_it_does_not_read(
    other, alone, reads, refused
):
    narrow = other(modalities=tuple(reads.split()))
    kinds = [request.modality for request in REQUESTS]
    assert set(kinds) == {"text", "text-image", "image"}
    for request, kind, expected in zip(REQUESTS, kinds, alone, strict=True):
        if kind in refused:
            with pytest.raises(ArtifactError, match=f"{kind} was not judged"):
                narrow.judge(request)
        else:
            assert lasting(narrow.judge(request)) == expected


def test_a_request_knows_its_modality_as_the_prompt_does(guard):
    image = (picture(),)
    for request, modality in (
        (Request("a"), "text"),
        (Request(" ", "b"), "text"),
        (Request(response="b"), "text"),
        (Request(images=image), "image"),
        (Request(" \n", images=image), "image"),
        (Request("a", images=image), "text-image"),
        (Request(None, "b", image), "text-image"),
        (Request(None, "", image), "text-image"),
    ):
        assert request.modality == modality
        prompt = guard._encoder.content(request.user, request.response, [4] * len(request.images))
        expected = guard._encoder.prefix(modality, "verdict", request.response is not None)
        assert prompt.prefix_ids.tolist() == expected.tolist()


def test_more_images_than_the_limit_are_an_error(guard, pieces):
    small = Image.new("RGB", (56, 56), "red")
    with pytest.raises(LimitError, match="17 images, the limit is 16"):
        guard.moderate("hello", [small] * 17)
    assert guard.moderate("hello", [small] * 16).evaluated == ("user_text", "image")
    assert len(pieces) == 16


@pytest.mark.parametrize("name", ["images", "message", "messages"])
def test_a_row_with_content_under_a_name_that_is_not_read_is_an_error(tmp_path, name):
    with pytest.raises(InputError, match=f"the row has '{name}'"):
        Request.from_row({"user": "hello", name: ["more"]}, tmp_path)
    for nothing in (None, [], ""):
        assert Request.from_row({"user": "hello", name: nothing}, tmp_path) == Request("hello")


def test_a_picture_is_opened_when_the_one_before_was_judged(guard, monkeypatch):
    """Patches of one picture at a time: many large ones need no more memory than one."""
    steps: list[str] = []
    real_find, real_load = Judge.find, pieces_module.load_image

    def find(self: Judge, *arguments: Any) -> Finding:
        steps.append("judged")
        return real_find(self, *arguments)

    def load(source: Any) -> Any:
        steps.append("opened")
        return real_load(source)

    monkeypatch.setattr(Judge, "find", find)
    monkeypatch.setattr(pieces_module, "load_image", load)
    guard.moderate("what?", [picture("red"), picture("blue"), picture("green")])
    assert steps == ["opened", "judged"] * 3


def test_a_mode_that_the_artifact_lacks_is_an_error(other):
    with pytest.raises(ArtifactError, match="no mode 'reason', only verdict"):
        other(modes=("verdict",)).moderate("hello", mode="reason")


def test_reasoning_is_given_in_mode_reason_only(guard):
    thought = guard.moderate("hello", mode="reason")
    assert (thought.mode, guard.moderate("hello").reasoning) == ("reason", None)
    assert isinstance(thought.reasoning, str)
    assert "</think>" not in thought.reasoning
    assert thought.tokens["generated"] > guard.artifact.limits["reason_tokens"]


def test_another_policy_is_judged_by_its_own_ids(other):
    strict = other(free_names=False, calibration=ALL_UNSAFE)
    whole = {strict.judge(request).category.id for request in REQUESTS[:3]}
    assert whole <= set(Policy.default().ids)
    for keep in (["C8"], ["C1", "C11S2"], ["C9S3"]):
        policy = Policy.default().subset(keep)
        for request in REQUESTS[:4]:
            category = strict.judge(request, policy=policy).category
            assert category.id in policy.ids
            assert category.name == policy.get(category.id).name
            assert category.in_policy
    assert not whole & set(Policy.default().without(list(whole)).ids)


def test_a_hidden_category_is_never_named_even_where_names_are_free(other):
    free = other(calibration=ALL_UNSAFE)
    policy = Policy.default().subset(["C8S1"])
    for request in REQUESTS[:4]:
        category = free.judge(request, policy=policy).category
        assert category.id in (None, *policy.ids)
        assert category.in_policy == (category.id is not None)
        assert category.name not in Policy.default().ids


def test_an_artifact_with_a_fixed_policy_knows_no_other(other, alone):
    fixed = other(policy_is_fixed=True)
    with pytest.raises(ArtifactError, match="knows no other"):
        fixed.moderate("hello", policy=Policy.default().subset(["C8"]))
    same = Policy.default()
    assert lasting(fixed.moderate("hello", policy=same)) == lasting(fixed.moderate("hello"))
    assert lasting(fixed.moderate("hello")) == alone[0]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Piece, Finding]]:
    """Every piece that a judge looks at, and what it found."""
    seen: list[tuple[Piece, Finding]] = []
    real = Judge.find

    def spy(self: Judge, piece: Piece, *rest: Any) -> Finding:
        finding = real(self, piece, *rest)
        seen.append((piece, finding))
        return finding

    monkeypatch.setattr(Judge, "find", spy)
    return seen


@pytest.mark.parametrize("part", ["user", "response"])
def test_every_character_of_a_long_text_is_looked_at(guard, pieces, part):
    guard.judge(Request(**{"user": "hello", part: LONG}))
    windows = list(dict.fromkeys(getattr(piece, part) for piece, _ in pieces))
    assert len(windows) > 3
    assert len({piece.user for piece, _ in pieces}) == (1 if part == "response" else len(windows))
    covered = 0
    for window in windows:
        begin = LONG.index(window)
        assert begin <= covered, f"characters {covered} to {begin} were left out"
        assert guard._encoder.count(window) <= guard.artifact.limits["window_tokens"]
        covered = max(covered, begin + len(window))
    assert covered == len(LONG)


@pytest.mark.parametrize("place", [0, 0.33, 0.5, 0.9, 1])
def test_a_word_anywhere_in_a_long_text_changes_what_is_seen(guard, pieces, place):
    at = int(place * len(LONG))
    guard.moderate(f"{LONG[:at]} MARK {LONG[at:]}")
    assert any("MARK" in piece.user for piece, _ in pieces)


def test_a_long_text_is_as_bad_as_its_worst_window(guard, other, pieces):
    whole = guard.moderate(LONG)
    scores = [finding.decoded.scores["request"] for _, finding in pieces]
    texts = [piece.user for piece, _ in pieces]
    assert whole.request.score == max(scores) > min(scores)
    assert [guard.moderate(text).request.score for text in texts] == scores
    # A threshold between the worst window and the next: one is enough.
    second, worst = sorted(scores)[-2:]
    bias = (math.log(second / (1 - second)) + math.log(worst / (1 - worst))) / 2
    between = other(calibration={"request": Calibration(bias)})
    labels = [between.moderate(text).request.label for text in texts]
    assert labels.count("unsafe") == 1
    verdict = between.moderate(LONG)
    assert verdict.request.label == "unsafe"
    alone = between.moderate(texts[labels.index("unsafe")])
    assert verdict.category == alone.category


def test_each_long_part_is_read_with_the_beginning_of_the_other(guard, pieces):
    verdict = guard.moderate(LONG, response=LONG.upper())
    users = {piece.user for piece, _ in pieces}
    responses = {piece.response for piece, _ in pieces}
    first = pieces[0][0]
    assert len(pieces) == len(users) + len(responses) - 1
    assert all(first.user == p.user or first.response == p.response for p, _ in pieces)
    for part in ("request", "response"):
        scores = [finding.decoded.scores[part] for _, finding in pieces]
        assert getattr(verdict, part).score == max(scores)


def test_several_pictures_are_as_bad_as_the_worst_of_them(guard, pieces):
    images = [picture("red"), picture("blue"), picture("green", "OTHER")]
    together = guard.moderate("what?", images)
    assert len(pieces) == 3
    assert len({piece.image.digest() for piece, _ in pieces}) == 3
    single = [guard.moderate("what?", image) for image in images]
    assert together.request.score == max(verdict.request.score for verdict in single)
    assert len({verdict.request.score for verdict in single}) == 3
    assert lasting(guard.moderate("what?", images[::-1])).request == together.request


def test_a_see_through_picture_is_judged_as_every_viewer_would_show_it(guard, pieces):
    views = load_image(see_through())
    assert len(views) >= 2
    verdict = guard.moderate(image=see_through())
    assert len(pieces) == len(views)
    scores = [guard.moderate(image=view.image).request.score for view in views]
    assert verdict.request.score == max(scores) > min(scores)


def test_a_picture_beside_a_long_text_is_looked_at_and_so_is_all_text(guard, pieces):
    guard.moderate(LONG, [picture("red"), picture("blue")])
    assert len({piece.image.digest() for piece, _ in pieces}) == 2
    assert all(piece.image is not None for piece, _ in pieces)
    assert any(LONG.endswith(piece.user) for piece, _ in pieces)


def test_calibration_moves_score_and_label_as_documented(other, alone):
    plain = alone[1]
    for part in ("request", "response"):
        score = getattr(plain, part).score
        difference = math.log(score / (1 - score))
        for bias, temperature in ((0.0, 3.0), (difference - 0.1, 1.0), (difference + 0.1, 2.0)):
            calibrated = other(calibration={part: Calibration(bias, temperature)})
            found = getattr(calibrated.judge(REQUESTS[1]), part)
            expected = 1 / (1 + math.exp(-(difference - bias) / temperature))
            assert found.score == pytest.approx(expected, abs=1e-6)
            assert found.label == ("unsafe" if bias < difference else "safe")
    # Not the other way round: the response is judged behind the label that the request was given.
    only = other(calibration={"response": Calibration(100.0)}).judge(REQUESTS[1])
    assert (only.request, only.response.label) == (plain.request, "safe")


def test_a_verdict_is_unsafe_where_either_part_is_and_has_a_category_only_then(other):
    for request, response in ((0, 0), (0, 100), (100, 0), (100, 100)):
        calibration = {
            "request": Calibration(float(request)),
            "response": Calibration(float(response)),
        }
        verdict = other(calibration=calibration).judge(REQUESTS[1])
        assert verdict.unsafe == (not (request and response))
        assert (verdict.category is not None) == verdict.unsafe
        assert verdict.score == max(verdict.request.score, verdict.response.score)


def test_the_score_is_the_softmax_of_the_two_labels_alone(guard, alone):
    """By hand, from the logits of the whole vocabulary behind `Request:`."""
    encoder = guard._encoder
    prompt = encoder.content("hello", None)
    heads = {
        label: encoder.encode_static(f"<answer>\nRequest:{label}\n") for label in ("safe", "unsafe")
    }
    shared = next(i for i, (a, b) in enumerate(zip(*heads.values(), strict=False)) if a != b)
    ids = [*prompt.content_ids.tolist(), *heads["safe"][:shared]]
    with guard.engine.start(prompt.prefix_ids) as sequence:
        logits = sequence.extend(np.array(ids, np.int64)).astype(float)
    difference = logits[heads["unsafe"][shared]] - logits[heads["safe"][shared]]
    assert alone[0].request.score == pytest.approx(1 / (1 + math.exp(-difference)), abs=1e-6)
