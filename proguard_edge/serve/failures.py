"""Errors as HTTP: which status an error has, and the body that OpenAI's clients read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from proguard_edge.errors import (
    AnswerError,
    ArtifactError,
    AuditError,
    BusyError,
    DeadlineError,
    InputError,
    LanguageError,
    LimitError,
    PolicyError,
    ProGuardEdgeError,
    ServiceError,
    TextError,
    WorkerError,
)

# The first that fits: a class stands before the one that it derives from.
STATUS: tuple[tuple[type[ProGuardEdgeError], int], ...] = (
    (LimitError, 413),
    (LanguageError, 422),
    (InputError, 400),
    (PolicyError, 400),
    (ArtifactError, 422),
    (BusyError, 429),
    (DeadlineError, 504),
    (WorkerError, 503),
    (AuditError, 503),
    (ServiceError, 503),
    (AnswerError, 500),
    (ProGuardEdgeError, 500),
)
_OF_MODERATIONS = ("input", "model", "type", "text", "image_url", "url", "detail")
_OF_VERDICTS = ("id", "user", "response", "image", "policy", "mode", "name", "categories")
_FIELDS = frozenset((*_OF_MODERATIONS, *_OF_VERDICTS))
# What a guard in process says of the same.
_MALFORMED = {"string_too_long": LimitError, "too_long": LimitError, "string_unicode": TextError}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def status_of(error: ProGuardEdgeError) -> int:
    """The HTTP status of an error; never one of success."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`; `code` is our class's name."""
    family = "server_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, family)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def content(error: ProGuardEdgeError, param: str | None = None) -> dict[str, Any]:
    """The body of an error: its message on one line, without control characters."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(error))
    return body(status_of(error), type(error).__name__, text, param)


def answer(error: ProGuardEdgeError, param: str | None = None) -> JSONResponse:
    """The whole answer, with Retry-After where trying again makes sense.

    OpenAI's clients try again after any 5xx unless `x-should-retry` says no. What killed a worker
    may well have done so by its content, and would kill the next.
    """
    headers = {"X-Should-Retry": "false"}
    if isinstance(error, ServiceError) and type(error) is not WorkerError:
        headers = {"Retry-After": str(math.ceil(error.retry_after))}
    return JSONResponse(content(error, param), status_of(error), headers)


def malformed(errors: Sequence[Mapping[str, Any]]) -> tuple[InputError, str | None]:
    """What is wrong with a body, of pydantic's list, and the field.

    Where a field may be of several kinds, the list has what each of them misses; the one that
    came closest says most: one of the right type, and then the one that got deepest.
    """
    closest = max(errors, key=lambda e: (not str(e["type"]).endswith("_type"), len(e["loc"])))
    steps = [s for s in closest["loc"] if isinstance(s, str) and s in _FIELDS]
    where = ".".join(steps) or None
    message = str(closest["msg"])
    kind = _MALFORMED.get(str(closest["type"]), InputError)
    return kind(message if where is None else f"{where}: {message}"), where
