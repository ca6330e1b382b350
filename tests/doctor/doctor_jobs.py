"""What helpers are asked to do in tests; importable, as they must be."""

from __future__ import annotations

import os
import signal
import socket
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
