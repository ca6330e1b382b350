"""A server that answers what a test tells it, byte for byte, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

VERDICT: dict[str, Any] = {
    "id": "1",
    "request": {"label": "safe", "score": 0.25},
    "response": None,
    "category": None,
    "reasoning": None,
    "evaluated": ["user_text"],
    "mode": "verdict",
    "artifact": "a" * 64,
    "tokens": {"prefix": 1, "content": 2, "generated": 3},
    "timings_ms": {"total": 1.5},
}


def answer(content: Any, status: int = 200, **headers: str) -> bytes:
    """An HTTP answer. content: JSON, or bytes as they are. headers: `Retry_After="1"`."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = {"Content-Length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{k.replace('_', '-')}: {v}" for k, v in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error(status: int, code: str, message: str = "no", **headers: str) -> bytes:
    """The server's error answer."""
    detail = {"message": message, "type": "server_error", "param": None, "code": code}
    return answer({"error": detail}, status, **headers)


@dataclass
class Asked:
    """A request as it came. headers: names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Scripted:
    """Answers one request after another from `script`, the last entry for ever.

    An entry is bytes to send, or None: the connection is dropped without an answer. `before` may
    wait, or talk to the connection itself.
    """

    script: list[bytes | None] = field(default_factory=lambda: [answer(VERDICT)])
    before: Callable[[socket.socket], None] = lambda _: None
    asked: list[Asked] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0

    def __post_init__(self) -> None:
        outer, lock = self, threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while (asked := _read(self.rfile)) is not None:
                    with lock:
                        outer.asked.append(asked)
                        outer.open_now += 1
                        outer.most_open = max(outer.most_open, outer.open_now)
                        said = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                    outer.before(self.connection)
                    with lock:
                        outer.open_now -= 1
                    if said is None:
                        return
                    self.wfile.write(said)

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""


def _read(file: Any) -> Asked | None:
    line = file.readline().decode().strip()
    if not line:
        return None
    headers = {}
    while (row := file.readline().decode().strip()) != "":
        name, _, value = row.partition(":")
        headers[name.lower()] = value.strip()
    return Asked(line, headers, file.read(int(headers.get("content-length", 0))))


def ask(url: str, user: str | None = "hello", **more: Any) -> Any:
    """A verdict through the client, without retries unless they are asked for."""
    from proguard_edge.client import Client

    options = {name: more.pop(name) for name in ("timeout", "retries", "api_key") if name in more}
    with Client(url, **{"retries": 0, "timeout": 20, **options}) as client:
        return client.moderate(user, **more)
