"""What a server answered: a verdict of the very request, or an error of the class that it names.

Nothing is filled in: an answer that lacks a field, or says what no guard says, is an AnswerError.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast, get_args

import proguard_edge.errors
from proguard_edge.answer import LABELS
from proguard_edge.errors import (
    AnswerError,
    BusyError,
    EngineError,
    InputError,
    ProGuardEdgeError,
    ServiceError,
)
from proguard_edge.request import Request
from proguard_edge.strict_json import json_object
from proguard_edge.template import Mode
from proguard_edge.verdict import Judgement, Risk, Verdict

T = TypeVar("T")
Outcome = Verdict | ProGuardEdgeError

DEFAULT_RETRY_S = 1.0
_HINTS = {
    401: "give the client an api_key",
    403: "the server is not reached under this name; see its --allowed-host",
    404: "is this the address of a proguard-edge server?",
}


def parsed(raw: bytes) -> dict[str, Any]:
    """The JSON object of an answer. Raises AnswerError."""
    try:
        return json_object(raw)
    except ValueError as error:
        raise AnswerError(f"the server's answer is {_line(error)}") from None


def read_verdict(raw: dict[str, Any], request: Request, mode: Mode | None) -> Verdict:
    """The verdict on this request. mode: that was asked for, None = the server's choice.

    Raises AnswerError when a field is missing or of another type, when labels contradict scores,
    and when a part of the request is not among what was looked at.
    """
    answered = _field(raw, "mode", str)
    if answered not in ((mode,) if mode else get_args(Mode)):
        raise AnswerError(f"the verdict's mode is {answered!r:.40}")
    verdict = Verdict(
        request=_judgement(_field(raw, "request", dict)),
        response=_optional(raw, "response", _judgement),
        category=_optional(raw, "category", _risk),
        reasoning=_maybe_text(raw, "reasoning"),
        evaluated=tuple(_list_of_texts(raw, "evaluated")),
        mode=cast(Mode, answered),
        artifact=_field(raw, "artifact", str),
        tokens=_numbers(raw, "tokens", int),
        timings_ms=_numbers(raw, "timings_ms", float),
    )
    if verdict.category is not None and not verdict.unsafe:
        raise AnswerError('the verdict is "safe" and has a category')
    _check_evaluated(verdict, request)
    return verdict


def _check_evaluated(verdict: Verdict, request: Request) -> None:
    seen = set(verdict.evaluated)
    looked_at = {
        "user text": not (request.user and request.user.strip()) or "user_text" in seen,
        "response": request.response is None or "response" in seen,
        "image": not request.images or bool(seen & {"image", "image_text"}),
    }
    if missed := [part for part, found in looked_at.items() if not found]:
        raise AnswerError(f"the verdict is not on the request's {', '.join(missed)}")
    if (verdict.response is None) != (request.response is None):
        raise AnswerError("the verdict has a response where the request has none, or none for one")


def _judgement(raw: dict[str, Any]) -> Judgement:
    label, score = _field(raw, "label", str), _share(raw)
    expected = LABELS[score >= 0.5]
    if label != expected:
        raise AnswerError(f"the label {label!r:.40} stands beside the score {score:g}")
    return Judgement(expected, score)


def _risk(raw: dict[str, Any]) -> Risk:
    name, in_policy = _field(raw, "name", str), _field(raw, "in_policy", bool)
    risk = Risk(_maybe_text(raw, "id"), name, in_policy, _share(raw))
    if not risk.name or risk.in_policy != (risk.id is not None):
        raise AnswerError("the verdict's category has no name, or is in the policy without an id")
    return risk


def _share(raw: dict[str, Any]) -> float:
    score = _field(raw, "score", float)
    if not 0 <= score <= 1:
        raise AnswerError(f"the score {score:g} is no probability")
    return score


def _field(raw: dict[str, Any], name: str, kind: type[T]) -> T:
    value = raw.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    # `True` is an int to isinstance, and no count.
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise AnswerError(f"the server's answer lacks {name!r}, or it is no {kind.__name__}")
    return value


def _optional(raw: dict[str, Any], name: str, read: Any) -> Any:
    """None where null is written; a field that is not there is an error."""
    if name in raw and raw[name] is None:
        return None
    return read(_field(raw, name, dict))


def _maybe_text(raw: dict[str, Any], name: str) -> str | None:
    return None if name in raw and raw[name] is None else _field(raw, name, str)


def _list_of_texts(raw: dict[str, Any], name: str) -> list[str]:
    values = _field(raw, name, list)
    if not values or not all(isinstance(value, str) for value in values):
        raise AnswerError(f"the server's answer has no texts in {name!r}")
    return values


def _numbers(raw: dict[str, Any], name: str, kind: type[T]) -> dict[str, T]:
    values = _field(raw, name, dict)
    return {key: _field(values, key, kind) for key in values}


def read_error(status: int, raw: bytes, retry_after: str | None) -> ProGuardEdgeError:
    """The error of an answer that is none. retry_after: the header of that name, if any."""
    try:
        detail = _field(json_object(raw), "error", dict)
        code, said = _field(detail, "code", str), _field(detail, "message", str)
    except (ValueError, AnswerError):
        code, said = "", raw.decode("utf-8", errors="replace")
    return named_error(status, code, said, _seconds(retry_after))


def named_error(
    status: int, code: str, said: str, retry_after: float = DEFAULT_RETRY_S
) -> ProGuardEdgeError:
    """The error of our class that `code` names, else of one that fits the HTTP status."""
    hint = f"; {_HINTS[status]}" if status in _HINTS else ""
    message = (_line(said) or f"the server answered with status {status}") + hint
    kind = _kind(status, code)
    if issubclass(kind, ServiceError):
        return kind(message, retry_after)
    return kind(message)


def _kind(status: int, code: str) -> type[ProGuardEdgeError]:
    named = getattr(proguard_edge.errors, code, None) if code.isidentifier() else None
    if isinstance(named, type) and issubclass(named, ProGuardEdgeError):
        return named
    if status == 429:
        return BusyError
    if status in (408, 502, 503, 504):
        return ServiceError
    # The server understood us well enough to say that this cannot be judged.
    if status in (400, 413, 415, 422):
        return InputError
    return EngineError


def _seconds(header: str | None) -> float:
    """Of a Retry-After header; a date, which needs both clocks to agree, counts as none."""
    try:
        seconds = float(header) if header is not None else DEFAULT_RETRY_S
    except ValueError:
        return DEFAULT_RETRY_S
    return seconds if math.isfinite(seconds) and seconds >= 0 else DEFAULT_RETRY_S


def _line(text: object) -> str:
    """At most 300 characters on one line."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:300].strip()
