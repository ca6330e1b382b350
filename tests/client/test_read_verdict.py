"""Only a whole verdict on the very request is one; all else is an error, and never a "safe"."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("httpx")

from scripted import VERDICT, Scripted, answer, ask

from proguard_edge.client.aio import MAX_ANSWER_BYTES
from proguard_edge.errors import (
    AnswerError,
)


def with_(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(VERDICT), **changes}


def without(*path: str) -> dict[str, Any]:
    raw = copy.deepcopy(VERDICT)
    holder: Any = raw
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return raw


UNSAFE = {"label": "unsafe", "score": 0.9}
RISK = {"id": "C1", "name": "Copyright", "in_policy": True, "score": 0.5}

TWISTED: dict[str, Any] = {
    **{f"no {name}": without(name) for name in VERDICT if name != "id"},
    "no label": without("request", "label"),
    "no score": without("request", "score"),
    "null request": with_(request=None),
    "empty request": with_(request={}),
    "a label of no guard": with_(request={"label": "fine", "score": 0.1}),
    "safe with a high score": with_(request={"label": "safe", "score": 0.9}),
    "unsafe with a low score": with_(request={"label": "unsafe", "score": 0.1}),
    "a score above one": with_(request={"label": "unsafe", "score": 1.1}),
    "a score below zero": with_(request={"label": "safe", "score": -0.1}),
    "a score in words": with_(request={"label": "safe", "score": "0.1"}),
    "a true score": with_(request={"label": "safe", "score": False}),
    "a response nobody gave": with_(response={"label": "safe", "score": 0.1}),
    "safe with a category": with_(category=RISK),
    "a category without a name": with_(request=UNSAFE, category={**RISK, "name": ""}),
    "a category in the policy without id": with_(request=UNSAFE, category={**RISK, "id": None}),
    "nothing evaluated": with_(evaluated=[]),
    "another part evaluated": with_(evaluated=["response"]),
    "numbers evaluated": with_(evaluated=[1]),
    "another mode": with_(mode="reason"),
    "a mode of no guard": with_(mode="fast"),
    "tokens in words": with_(tokens={"prefix": "1"}),
    "timings in words": with_(timings_ms={"total": "1"}),
    "a list": [VERDICT],
    "null": None,
    "a verdict in an envelope": {"verdict": VERDICT},
    "OpenAI's answer": {"id": "1", "model": "m", "results": [{"flagged": False}]},
    "an error with status 200": {"error": {"message": "no", "type": "", "code": "BusyError"}},
}


@pytest.mark.parametrize("case", TWISTED)
def test_a_200_that_is_no_verdict_on_this_request_is_an_answer_error(
    scripted: Scripted, case: str
) -> None:
    scripted.script = [answer(TWISTED[case])]
    with pytest.raises(AnswerError) as caught:
        ask(scripted.url, mode="verdict")
    assert "\n" not in str(caught.value)


def test_the_verdict_that_the_cases_twist_is_one(scripted: Scripted) -> None:
    verdict = ask(scripted.url, mode="verdict")
    assert {"id": "1", **verdict.to_dict()} == VERDICT


def test_a_verdict_that_leaves_out_the_response_or_the_image_is_an_answer_error(
    scripted: Scripted,
) -> None:
    with pytest.raises(AnswerError, match="response"):
        ask(scripted.url, response="there")
    with pytest.raises(AnswerError, match="image"):
        ask(scripted.url, image=b"x")
    scripted.script = [answer(with_(evaluated=["user_text", "response"]))]
    with pytest.raises(AnswerError, match="response"):
        ask(scripted.url, response="there")


GARBAGE: dict[str, bytes] = {
    "nothing": answer(b""),
    "no json": answer(b"<html>login</html>"),
    "cut json": answer(b'{"request": {"label": "safe"'),
    "no utf-8": answer(b'{"a": "\xff"}'),
    "nan": answer(b'{"request": NaN}'),
    "twins": answer(b'{"mode": "verdict", "mode": "reason"}'),
    "deep": answer(b"[" * 200_000),
    "too long": answer(b" " * (MAX_ANSWER_BYTES + 1)),
    "compressed": answer(b"\x1f\x8b\x08\x00", Content_Encoding="gzip"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_a_200_that_cannot_be_read_is_an_answer_error_of_one_line(
    scripted: Scripted, case: str
) -> None:
    scripted.script = [GARBAGE[case]]
    with pytest.raises(AnswerError) as caught:
        ask(scripted.url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
