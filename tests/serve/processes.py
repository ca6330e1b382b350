"""A server as a user starts it: a process of its own, with the starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 60.0


@dataclass(frozen=True)
class Running:
    """url: without a slash at its end. process: the server, whose children are the workers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[int]:
        """Process ids of the children: the resource tracker, the worker, the decoder."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    folder: Path, *options: str, scheme: str = "http", port: int | None = None
) -> Iterator[Running]:
    """A server that is ready. At the end it must drain and leave with 0."""
    port, log = port or free_port(), folder / "server.log"
    command = [sys.executable, "-m", "proguard_edge", "serve", "--port", str(port), *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=dict(os.environ))
    server = Running(f"{scheme}://127.0.0.1:{port}", process, log)
    try:
        _until_ready(server)
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _until_ready(server: Running) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log.read_text()
        try:
            if httpx.get(f"{server.url}/readyz", verify=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())
