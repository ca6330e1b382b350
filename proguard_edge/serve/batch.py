"""`POST /v1/verdicts/batch`: NDJSON in, NDJSON out, one line for a line, in order.

A row that cannot be judged is a line with its error, and the stream goes on. The body is read ahead
of the judging, so that a client may send all of it before it reads.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from proguard_edge.errors import (
    BusyError,
    InputError,
    LimitError,
    ProGuardEdgeError,
    StartingError,
)
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode
from proguard_edge.request import Request
from proguard_edge.serve import failures
from proguard_edge.serve.bodies import VerdictRequest
from proguard_edge.serve.content import request_of
from proguard_edge.serve.http import ERRORS, caller_of, moderator_of
from proguard_edge.serve.lines import Lines
from proguard_edge.serve.moderator import Caller, Moderator
from proguard_edge.serve.verdicts import chosen_policy
from proguard_edge.verdict import Verdict

MAX_STREAMS = 16
WRITE_S = 60.0
NDJSON = "application/x-ndjson"
ACCEPTED = (NDJSON, "application/ndjson", "application/jsonl", "application/json")

router = APIRouter()


class Row(VerdictRequest):
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
    # A browser sends a plain text for another site's page without asking us first.
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ACCEPTED:
        told = f"send the rows with Content-Type: {NDJSON}"
        return JSONResponse(failures.body(415, "InputError", told), 415)
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
        self._moderator.streams += 1
        lines = Lines(self._moderator.settings.max_body_bytes, self._moderator.settings.body_s)
        reading = asyncio.create_task(lines.fill(receive))
        try:
            await self._answer(lines, scope, receive, send)
        finally:
            self._moderator.streams -= 1
            reading.cancel()
            await asyncio.wait([reading])

    async def _answer(self, lines: Lines, scope: Any, receive: Any, send: Any) -> None:
        begun = False
        async for number, raw in lines:
            if not begun:
                begun = True
                await send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
            answer = await _answer(self._moderator, self._caller, raw, number)
            if lines.gone:
                return
            await _write(send, json.dumps(answer).encode() + b"\n")
        if not begun:
            nothing = InputError("no row came: send a line for each conversation")
            await failures.answer(nothing)(scope, receive, send)
        # A client that went away, or stopped sending, in the middle is not told that this was all.
        elif lines.whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Any, raw: bytes) -> None:
    """Send a line. Raises TimeoutError for a client that does not read."""
    async with asyncio.timeout(WRITE_S):
        await send({"type": "http.response.body", "body": raw, "more_body": True})


async def _answer(
    moderator: Moderator, caller: Caller, raw: bytes | LimitError, number: int
) -> dict[str, Any]:
    name: str | int = f"line-{number}"
    try:
        if isinstance(raw, LimitError):
            raise raw
        row = _row(raw, number)
        name = row.id if row.id is not None else name
        request, policy = request_of(row), chosen_policy(moderator, row)
    except ProGuardEdgeError as error:
        return {"id": name, **failures.content(moderator.refuse(error, caller))}
    try:
        verdict = await _judge(moderator, caller, request, policy, row.mode)
    except ProGuardEdgeError as error:
        return {"id": name, **failures.content(error)}
    return {"id": name, "verdict": verdict.to_dict()}


def _row(raw: bytes, number: int) -> Row:
    try:
        return Row.model_validate_json(raw)
    except ValidationError as error:
        found, _ = failures.malformed(error.errors(include_url=False, include_input=False))
        raise type(found)(f"line {number}: {found}") from None


async def _judge(
    moderator: Moderator, caller: Caller, request: Request, policy: Policy, mode: Mode | None
) -> Verdict:
    until = asyncio.get_running_loop().time() + moderator.settings.limits.deadline_s
    while True:
        try:
            return await moderator.judge(request, caller, policy=policy, mode=mode, bulk=True)
        except StartingError as error:
            # The worker comes back within seconds: a stream has time, a row lost is work lost.
            if asyncio.get_running_loop().time() + error.retry_after > until:
                raise
            await asyncio.sleep(min(1.0, error.retry_after))
