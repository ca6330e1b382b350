"""What the routes share: whose request it is, a client that goes away, an error's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from proguard_edge.errors import ProGuardEdgeError, ServiceError
from proguard_edge.serve import failures
from proguard_edge.serve.bodies import ErrorBody
from proguard_edge.serve.moderator import Caller, Moderator

T = TypeVar("T")

_WHEN = {
    400: "The content cannot be judged as it is.",
    401: "No valid API key.",
    403: "A Host that is not served here.",
    408: "The body did not come in time.",
    413: "Larger than a limit.",
    415: "A body that is not JSON.",
    422: "Not something that this artifact can judge.",
    429: "Too many requests wait; Retry-After says how long.",
    500: "The engine failed, or its answer was no answer. Nothing was decided.",
    503: "The worker died or is starting, or the audit log cannot be written.",
    504: "No verdict in time.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text} for status, text in _WHEN.items()
}


def moderator_of(http: HttpRequest) -> Moderator:
    """The application's moderator."""
    moderator: Moderator = http.app.state.moderator
    return moderator


def caller_of(http: HttpRequest) -> Caller:
    """Who asks, as the middleware found out."""
    return Caller(http.state.request_id, http.state.key, http.url.path)


async def judged(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which ends with the client's connection: nobody waits for it then."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        working.cancel()
        await asyncio.wait({working})
        raise ServiceError("the client went away")
    finally:
        gone.cancel()
        working.cancel()


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def refused(http: HttpRequest, error: ProGuardEdgeError, param: str | None = None) -> JSONResponse:
    """The answer to content that never reached the moderator, which counts and notes it."""
    found = moderator_of(http).refuse(error, caller_of(http))
    return failures.answer(found, param if found is error else None)
