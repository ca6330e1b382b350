"""`POST /v1/verdicts/batch`: NDJSON in, NDJSON out, one line for a line, in order.

A row that cannot be judged is a line with its error, and the stream goes on. The body is read ahead
of the judging, so that a client may send all of it before it reads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import ValidationError

from proguard_edge.errors import (
    BusyError,
    InputError,
    LimitError,
    ProGuardEdgeError,
    StartingError,
)
from proguard_edge.serve import failures
from proguard_edge.serve.bodies import Strict, VerdictRequest
from proguard_edge.serve.content import request_of
from proguard_edge.serve.http import ERRORS, caller_of, moderator_of
from proguard_edge.serve.moderator import Caller, Moderator
from proguard_edge.serve.verdicts import chosen_policy

AHEAD_BYTES = 64 << 20
MAX_STREAMS = 16
WRITE_S = 60.0
NDJSON = "application/x-ndjson"

router = APIRouter()


class Row(VerdictRequest, Strict):
    """A line: a verdict's request with a name of its own."""

    id: str | int | None = None


_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {NDJSON: {"schema": {"description": "A row on each line."}}},
    }
}
_OK: dict[int | str, dict[str, Any]] = {
    200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "Verdicts."}
}


@router.post(
    "/v1/verdicts/batch",
    response_class=Response,
    responses={**ERRORS, **_OK},
    openapi_extra=_SCHEMA,
)
async def batch(http: HttpRequest) -> Any:
    """`{"id": …, "verdict": {…}}` or `{"id": …, "error": {…}}` for each line."""
    moderator = moderator_of(http)
    if moderator.streams >= MAX_STREAMS:
        return failures.answer(BusyError(f"{MAX_STREAMS} batch streams are open", 10))
    return _Stream(http, moderator)


class _Stream(Response):
    """Answers while it reads. Starlette's own streaming takes the body's messages for itself."""

    def __init__(self, http: HttpRequest, moderator: Moderator) -> None:
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self._caller, self._moderator = caller_of(http), moderator

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        first = await receive()
        if not first.get("body") and not first.get("more_body"):
            empty = InputError("an empty body: send a line for each conversation")
            await failures.answer(empty)(scope, receive, send)
            return
        lines = _Lines(self._moderator.settings.max_body_bytes, first)
        reading = asyncio.create_task(lines.fill(receive))
        self._moderator.streams += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for number, raw in lines:
                answer = await _answer(self._moderator, self._caller, raw, number)
                await _write(send, json.dumps(answer).encode() + b"\n")
            # A client that went away in the middle is not told that this was all.
            if await reading:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._moderator.streams -= 1
            reading.cancel()


async def _write(send: Any, raw: bytes) -> None:
    """Send a line. Raises TimeoutError for a client that does not read."""
    async with asyncio.timeout(WRITE_S):
        await send({"type": "http.response.body", "body": raw, "more_body": True})


async def _answer(
    moderator: Moderator, caller: Caller, raw: bytes | LimitError, number: int
) -> dict[str, Any]:
    name: str | int | None = None
    try:
        if isinstance(raw, LimitError):
            raise raw
        row = _row(raw, number)
        name = row.id
        verdict = await _judge(moderator, caller, row)
    except ProGuardEdgeError as error:
        found = failures.content(error)
        return {"id": name if name is not None else f"line-{number}", **found}
    return {"id": name if name is not None else f"line-{number}", "verdict": verdict}


def _row(raw: bytes, number: int) -> Row:
    try:
        return Row.model_validate_json(raw)
    except ValidationError as error:
        found, _ = failures.malformed(error.errors(include_url=False, include_input=False))
        raise type(found)(f"line {number}: {found}") from None


async def _judge(moderator: Moderator, caller: Caller, row: Row) -> dict[str, Any]:
    request, policy = request_of(row), chosen_policy(moderator, row)
    until = asyncio.get_running_loop().time() + moderator.settings.limits.deadline_s
    while True:
        try:
            verdict = await moderator.judge(
                request, caller, policy=policy, mode=row.mode, bulk=True
            )
            return verdict.to_dict()
        except StartingError as error:
            # The worker comes back within seconds: a stream has time, a row lost is work lost.
            if asyncio.get_running_loop().time() + error.retry_after > until:
                raise
            await asyncio.sleep(min(1.0, error.retry_after))


class _Lines:
    """Lines of a body that is read while they are taken; at most `AHEAD_BYTES` lie here."""

    def __init__(self, max_line: int, first: Any) -> None:
        """first: the first message of the body."""
        self._max, self._first = max_line, first
        self._number = 0
        self._lines: asyncio.Queue[tuple[int, bytes | LimitError] | None] = asyncio.Queue()
        self._held = 0
        self._room = asyncio.Event()
        self._room.set()

    async def fill(self, receive: Any) -> bool:
        """Read the body; whether all of it came."""
        rest, dropping, message = b"", False, self._first
        try:
            while True:
                if message["type"] != "http.request":
                    return False
                *whole, rest = (rest + message.get("body", b"")).split(b"\n")
                for line in whole:
                    await self._put(line, dropping)
                    dropping = False
                if len(rest) > self._max:
                    rest, dropping = b"", True
                if not message.get("more_body"):
                    break
                message = await receive()
            await self._put(rest, dropping)
            return True
        finally:
            self._lines.put_nowait(None)

    async def _put(self, line: bytes, dropped: bool) -> None:
        self._number += 1
        if dropped or len(line) > self._max:
            error = LimitError(f"a line of more than {self._max} bytes")
            self._lines.put_nowait((self._number, error))
        elif line.strip():
            self._held += len(line)
            self._lines.put_nowait((self._number, line))
            if self._held > AHEAD_BYTES:
                self._room.clear()
                await self._room.wait()

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes | LimitError]]:
        while (item := await self._lines.get()) is not None:
            yield item
            if isinstance(item[1], bytes):
                self._held -= len(item[1])
                if self._held <= AHEAD_BYTES:
                    self._room.set()
