"""Blocks of requests for `/v1/verdicts/batch`: NDJSON out, NDJSON back, a line for a line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from proguard_edge.client.answers import Outcome, named_error, parsed, read_verdict
from proguard_edge.client.content import body_of
from proguard_edge.client.ordered import each
from proguard_edge.errors import AnswerError, ProGuardEdgeError, ServiceError
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.template import Mode

# A block is answered as a whole: long ones would keep whoever waits for its first line.
MAX_LINES = 16
MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Line:
    """A request with the line that carries it, or with the error for which it is not sent."""

    request: Request
    body: bytes = b""
    error: ProGuardEdgeError | None = None


async def blocks(
    requests: Iterable[Request] | AsyncIterable[Request],
    policy: Policy | str | None,
    mode: Mode | None,
) -> AsyncIterator[list[Line]]:
    """Lines of at most `MAX_LINES`, and of `MAX_BYTES` bytes or one line."""
    block: list[Line] = []
    async for request in each(requests):
        line = await asyncio.to_thread(_line, request, policy, mode, len(block))
        block.append(line)
        if len(block) >= MAX_LINES or sum(len(line.body) for line in block) >= MAX_BYTES:
            yield block
            block = []
    if block:
        yield block


def _line(request: Request, policy: Policy | str | None, mode: Mode | None, number: int) -> Line:
    try:
        return Line(request, body_of(request, policy, mode, id=number))
    except ProGuardEdgeError as error:
        return Line(request, error=error)


def read_lines(raw: bytes, block: list[Line], mode: Mode | None) -> list[Outcome]:
    """An outcome for each line of the block; a line that is not answered is a ServiceError."""
    answers = iter(raw.split(b"\n"))
    found: list[Outcome] = []
    for number, line in enumerate(block):
        if line.error is not None:
            found.append(line.error)
            continue
        try:
            found.append(_outcome(next(answers, b""), number, line.request, mode))
        except ProGuardEdgeError as error:
            found.append(error)
    return found


def _outcome(raw: bytes, number: int, request: Request, mode: Mode | None) -> Outcome:
    if not raw:
        raise ServiceError("the stream ended before this line was answered")
    answer: dict[str, Any] = parsed(raw)
    verdict, error = answer.get("verdict"), answer.get("error")
    if answer.get("id") != number or isinstance(verdict, dict) == isinstance(error, dict):
        raise AnswerError("the stream's answer is not that of this line")
    if isinstance(error, dict):
        return named_error(500, str(error.get("code")), str(error.get("message")))
    return read_verdict(answer["verdict"], request, mode)
