"""Middleware: what holds for every request before a route sees it. Plain ASGI, so that bodies
stream and a client that goes away is noticed."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from proguard_edge.serve import failures
from proguard_edge.serve.keys import owner

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz", "/", "/page.css", "/page.js", "/icon.svg"})
BODIES = 16
# Bodies above the limit are read on up to so many times the limit, and so many seconds.
DRAINED, DRAIN_S = 4, 5.0
STREAMED = "/v1/verdicts/batch"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
)


class Headers:
    """Gives every request an id (the client's own where it is sound), every answer our headers."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = _header(scope, b"x-request-id")
        known = given is not None and _REQUEST_ID.fullmatch(given)
        request_id = given if known and given else secrets.token_hex(12).encode()
        scope["state"]["request_id"] = request_id.decode()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in SECURITY if name not in own),
                    (b"x-request-id", request_id),
                ]
            await send(message)

        await self.app(scope, receive, with_headers)
        return None


class Gate:
    """Refuses a Host that is not ours (another site's page may resolve its own name to us), and
    whoever has no key."""

    def __init__(self, app: App, keys: dict[str, str], hosts: tuple[str, ...]) -> None:
        self.app, self.keys, self.hosts = app, keys, frozenset(h.lower() for h in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["state"]["key"] = None
        if self.hosts and _host(scope) not in self.hosts:
            return await _refuse(send, 403, "HostError", "this Host is not served here")
        # Pages of other sites may send a plain POST to this machine without asking first.
        if _header(scope, b"sec-fetch-site") in (b"cross-site", b"same-site") and not _reads(scope):
            return await _refuse(send, 403, "HostError", "not for pages of other sites")
        if self.keys and scope["path"] not in OPEN:
            name = owner(self.keys, _bearer(scope))
            if name is None:
                return await _refuse(
                    send,
                    401,
                    "ApiKeyError",
                    "no valid API key: send Authorization: Bearer KEY",
                    (b"www-authenticate", b"Bearer"),
                )
            scope["state"]["key"] = name
        await self.app(scope, receive, send)
        return None


class BodyLimits:
    """A body larger, or slower, than it may be: 413, 408; too many at once: 429.

    The batch stream limits its lines.
    """

    def __init__(self, app: App, max_bytes: int, seconds: float) -> None:
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] == STREAMED:
            return await self.app(scope, receive, send)
        stated = _header(scope, b"content-length") or b"0"
        if not stated.isdigit() or int(stated) > self.max_bytes:
            return await self._too_large(receive, send)
        if self._held + int(stated) > BODIES * self.max_bytes:
            await self._drain(receive)
            return await _refuse(
                send, 429, "BusyError", "too many large bodies at once", (b"retry-after", b"1")
            )
        chunked = _header(scope, b"transfer-encoding") is not None
        held = self.max_bytes if chunked else int(stated)
        self._held += held
        try:
            return await self._with_body(scope, receive, send)
        finally:
            self._held -= held

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._whole(receive)
        except TimeoutError:
            return await _refuse(
                send, 408, "LimitError", f"the body did not come within {self.seconds:g} s"
            )
        if body is None:
            return await self._too_large(receive, send)
        given = iter([body])

        async def replay() -> Message:
            for message in given:
                return message
            return await receive()

        await self.app(scope, replay, send)
        return None

    async def _whole(self, receive: Receive) -> Message | None:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_bytes:
                return None
            if not message.get("more_body"):
                return {"type": "http.request", "body": b"".join(parts), "more_body": False}

    async def _too_large(self, receive: Receive, send: Send) -> None:
        await self._drain(receive)
        await _refuse(
            send,
            413,
            "LimitError",
            f"the body is larger than {self.max_bytes} bytes",
        )

    async def _drain(self, receive: Receive) -> None:
        """Read on for a while: a client that is still sending when we close never sees why."""
        left = DRAINED * self.max_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body"):
                        return


async def _refuse(
    send: Send, status: int, code: str, message: str, *headers: tuple[bytes, bytes]
) -> None:
    raw = json.dumps(failures.body(status, code, message)).encode()
    length = (b"content-length", str(len(raw)).encode())
    # What is left of a body that nobody reads would be taken for the next request.
    close = (b"connection", b"close")
    head = [(b"content-type", b"application/json"), length, close, *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": raw})


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def _reads(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD")


def _bearer(scope: Scope) -> str:
    scheme, _, key = (_header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _host(scope: Scope) -> str:
    host = (_header(scope, b"host") or b"").decode("latin-1").lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
