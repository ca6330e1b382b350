"""Run: bind, load, serve, drain."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from proguard_edge.errors import InputError
from proguard_edge.serve.app import create_app
from proguard_edge.serve.connection import protocol
from proguard_edge.serve.moderator import Moderator
from proguard_edge.serve.settings import Settings

MAX_HEADER_BYTES = 32 << 10


@dataclass(frozen=True)
class Listen:
    """Where to listen. certificate, key: PEM files for TLS. access_log: a line for a request."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None
    access_log: bool = False


def run(settings: Settings, listen: Listen, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is under way, and return.

    ready: told the artifact's name and the port once it can judge.

    Raises InputError when the address cannot be had; whatever the engine or the audit log cannot
    start for.
    """
    asyncio.run(_run(settings, listen, ready))


async def _run(settings: Settings, listen: Listen, ready: Callable[[str, int], None]) -> None:
    bound = _bind(listen)
    moderator = Moderator(settings)
    try:
        await moderator.start()
        ready(moderator.facts.artifact, bound.getsockname()[1])
        await _serve(settings, listen, moderator, bound)
    finally:
        await moderator.stop()
        bound.close()


async def _serve(
    settings: Settings, listen: Listen, moderator: Moderator, bound: socket.socket
) -> None:
    config = uvicorn.Config(
        create_app(settings, moderator),
        http=protocol(settings.header_s),
        ws="none",
        lifespan="off",
        log_level="info" if listen.access_log else "warning",
        access_log=listen.access_log,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=round(settings.header_s),
        timeout_graceful_shutdown=round(settings.limits.deadline_s) + 5,
        ssl_certfile=listen.certificate,
        ssl_keyfile=listen.key,
    )
    # uvicorn drains on these and then raises them again, which must not end us before the audit
    # log is closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(config).serve(sockets=[bound])


def _bind(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        return socket.create_server((listen.host, listen.port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(
            f"cannot listen on {listen.host}:{listen.port}: {error.strerror or error}; "
            "choose another --port"
        ) from None
