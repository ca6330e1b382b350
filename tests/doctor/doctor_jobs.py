"""What helpers are asked to do in tests; importable, as they must be."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proguard_edge.doctor.finding import Subject
from proguard_edge.doctor.sockets import SocketWatch
from proguard_edge.errors import EngineError, WorkerError


def double(number: int) -> int:
    print("this must not end up in a report")
    return 2 * number


def die(_: None) -> None:
    os.kill(os.getpid(), signal.SIGILL)


def hang(_: None) -> None:
    time.sleep(60)


def fail(_: None) -> None:
    raise ZeroDivisionError("of all things")


def refuse(_: None) -> None:
    raise EngineError("the decoder failed")


def connect(port: int) -> None:
    with socket.socket() as mine:
        mine.settimeout(5)
        mine.connect_ex(("127.0.0.1", port))


def connect_and_fail(port: int) -> None:
    connect(port)
    raise ZeroDivisionError


def native(seconds: float) -> None:
    """A socket that Python is not told of."""
    libc = ctypes.CDLL(None)
    mine = libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
    # AF_INET, port 9, 127.0.0.1; a connected socket has a port of its own.
    address = struct.pack("=H", socket.AF_INET) + b"\x00\x09" + b"\x7f\x00\x00\x01" + bytes(8)
    assert libc.connect(mine, address, len(address)) == 0
    time.sleep(seconds)
    libc.close(mine)


def loaded(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in sys.modules]


class Answers:
    """Stands in for a helper: what it gives or raises, by the function's name and argument."""

    deaths = 0

    def __init__(self, answers: dict[tuple[str, Any], Any]) -> None:
        self._answers = answers

    def run(self, function: Callable[[Any], Any], argument: Any, _: float) -> Any:
        answer = self._answers[function.__name__, argument]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sockets(self) -> list[str]:
        return []


def dead(signal_name: str) -> WorkerError:
    return WorkerError(f"the process that tried it died ({signal_name}); nothing was decided")


def subject(folder: Path, helper: Any = None, **rest: Any) -> Subject:
    return Subject(folder, helper or Answers({}), SocketWatch(), **rest)
