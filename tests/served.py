"""A real server in a process of its own, for tests that ask one."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 180
# No proxy of the environment between a test and its server.
_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),
)


@dataclass(frozen=True)
class Served:
    """A running server. url: its address, without a path. log: its output."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[int]:
        """The process ids of its children: the worker, the decoder. Skips without /proc."""
        listed = list(Path("/proc").glob(f"{self.process.pid}/task/*/children"))
        if not listed:
            pytest.skip("no /proc")
        return [int(pid) for children in listed for pid in children.read_text().split()]

    def worker(self) -> int:
        """The process id of the engine's process: the largest child."""
        return max(self.children(), key=_pages)


@contextmanager
def served(
    log: Path,
    *options: str,
    cache: Path | None = None,
    code: int = 0,
    scheme: str = "http",
    port: int | None = None,
) -> Iterator[Served]:
    """`proguard-edge serve` with these options, as soon as it would judge.

    It turns no test away that waits for a busy machine. At the end it gets a SIGTERM, if it still
    runs, and must leave with exit code `code`. log: its output, shown when it fails.
    """
    port = port or free_port()
    words = ["serve", "--port", str(port), "--max-wait", "60", "--deadline", "120", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "proguard_edge", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **({"PROGUARD_EDGE_CACHE": str(cache)} if cache else {})},
        )
    server = Served(f"{scheme}://127.0.0.1:{port}", process, log)
    try:
        _wait_until_ready(server)
        yield server
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code, _said(log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def _wait_until_ready(server: Served) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.process.poll() is None, _said(server.log)
        try:
            with _OPENER.open(f"{server.url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"not ready within {START_S} s: {_said(server.log)}")


def _pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def _said(log: Path) -> str:
    return f"the server said:\n{log.read_text(errors='replace')[-4000:]}"
