"""A server of ours in a process of its own, for measurements: its memory, and its worker's end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from proguard_edge.errors import EngineError


class Server:
    """`proguard-edge serve` in a process of its own."""

    def __init__(self, artifact: Path | None, options: Sequence[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        chosen = ["--artifact", str(artifact)] if artifact is not None else []
        command = ["serve", "--port", str(port), *chosen, *options]
        self._process = subprocess.Popen([sys.executable, "-m", "proguard_edge", *command])

    async def ready(self, client: httpx.AsyncClient) -> None:
        """Wait until it can judge. Raises EngineError when it ends before."""
        while self._process.poll() is None:
            try:
                if (await client.get(f"{self.url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
        raise EngineError(f"the server ended with {self._process.returncode}")

    def memory_mb(self) -> float:
        """Resident memory of the server and its children."""
        return sum(map(_resident_mb, (self._process.pid, *self._children())))

    def kill_worker(self) -> bool:
        """SIGKILL for the largest child, which is the engine's."""
        children = self._children()
        if not children:
            return False
        os.kill(max(children, key=_resident_mb), signal.SIGKILL)
        return True

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(120)

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
