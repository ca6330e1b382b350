"""Many requests: in order, bounded, an error in its place; and the stream for bulk."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("httpx")

from scripted import VERDICT, Scripted, answer, error

from proguard_edge.client import AsyncClient, Client
from proguard_edge.errors import (
    AnswerError,
    ImageError,
    ProGuardEdgeError,
    ServiceError,
    TextError,
)
from proguard_edge.request import Request
from proguard_edge.verdict import Verdict


def test_outcomes_come_in_order_with_errors_in_their_place(scripted: Scripted) -> None:
    scripted.script = [answer(VERDICT), error(400, "ImageError"), answer(VERDICT)]
    with Client(scripted.url, retries=0) as client:
        asked = [Request("a"), Request("b"), Request("\x00"), Request("c")]
        found = list(client.moderate_many(asked, concurrency=1))
    kinds = [type(outcome) for outcome in found]
    assert kinds == [Verdict, ImageError, TextError, Verdict]


def test_no_more_requests_are_taken_than_may_be_under_way(scripted: Scripted) -> None:
    scripted.before = lambda _: time.sleep(0.05)
    taken = 0

    async def requests() -> Any:
        nonlocal taken
        for number in range(12):
            taken += 1
            yield Request(str(number))

    async def ask_all() -> None:
        given = 0
        async with AsyncClient(scripted.url) as client:
            async for outcome in client.moderate_many(requests(), concurrency=3):
                given += 1
                assert isinstance(outcome, Verdict)
                assert taken - given < 3
        assert given == 12

    asyncio.run(ask_all())
    assert 1 < scripted.most_open <= 3


def test_a_slow_source_does_not_hold_back_what_is_judged(scripted: Scripted) -> None:
    async def ask_first() -> Verdict | ProGuardEdgeError:
        judged = asyncio.Event()

        async def requests() -> Any:
            yield Request("first")
            await asyncio.wait_for(judged.wait(), 20)

        async with AsyncClient(scripted.url) as client:
            outcomes = client.moderate_many(requests(), concurrency=8)
            found = await anext(outcomes)
            judged.set()
            assert [outcome async for outcome in outcomes] == []
            return found

    assert isinstance(asyncio.run(ask_first()), Verdict)


def test_a_source_that_fails_fails_after_what_came_before_it(scripted: Scripted) -> None:
    def requests() -> Iterator[Request]:
        yield Request("first")
        raise OSError("the disk is gone")

    with Client(scripted.url) as client:
        outcomes = client.moderate_many(requests())
        assert isinstance(next(outcomes), Verdict)
        with pytest.raises(OSError, match="disk"):
            next(outcomes)


def test_whoever_stops_early_leaves_nothing_under_way(scripted: Scripted) -> None:
    scripted.before = lambda _: time.sleep(0.2)

    async def ask_one() -> None:
        async with AsyncClient(scripted.url) as client:
            outcomes = client.moderate_many([Request("a")] * 50, concurrency=4)
            await anext(outcomes)
            await outcomes.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others

    asyncio.run(ask_one())
    assert len(scripted.asked) <= 8


def line(number: int, **said: Any) -> dict[str, Any]:
    return {"id": number, **said}


def ndjson(*lines: Any) -> bytes:
    return answer(b"".join(json.dumps(each).encode() + b"\n" for each in lines))


def stream(url: str, *texts: str) -> list[Verdict | ProGuardEdgeError]:
    with Client(url, retries=0, timeout=20) as client:
        return list(client.stream([Request(text) for text in texts]))


def test_a_stream_gives_an_outcome_for_each_line(scripted: Scripted) -> None:
    verdict = {name: value for name, value in VERDICT.items() if name != "id"}
    refused = {"message": "no", "type": "", "param": None, "code": "LanguageError"}
    scripted.script = [ndjson(line(0, verdict=verdict), line(2, error=refused))]
    found = stream(scripted.url, "a", "\x00", "b")
    assert [type(each).__name__ for each in found] == ["Verdict", "TextError", "LanguageError"]
    rows = scripted.asked[0].body.split(b"\n")
    assert len(rows) == 2


STREAMS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "cut short": lambda _: [],
    "of another line": lambda verdict: [line(1, verdict=verdict)],
    "with both": lambda verdict: [line(0, verdict=verdict, error={"code": "BusyError"})],
    "with neither": lambda _: [line(0)],
    "without the request": lambda verdict: [line(0, verdict={**verdict, "request": None})],
    "a list": lambda verdict: [[verdict]],
}


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_is_odd_gives_errors_and_no_verdict(scripted: Scripted, case: str) -> None:
    scripted.script = [ndjson(*STREAMS[case](VERDICT))]
    (found,) = stream(scripted.url, "a")
    assert isinstance(found, AnswerError | ServiceError)


def test_a_stream_that_breaks_gives_an_error_for_every_line(scripted: Scripted) -> None:
    scripted.script = [None]
    found = stream(scripted.url, *"abc")
    assert [type(each) for each in found] == [ServiceError] * 3
