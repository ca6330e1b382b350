"""A process for what may crash: it runs our functions, and is started again after it died."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from proguard_edge.child import Child, Handler
from proguard_edge.doctor.sockets import SocketWatch
from proguard_edge.errors import WorkerError

START_S = 60.0
# What to do about a death, by its signal.
AFTER_DEATH = "SIGKILL: more memory; SIGILL: another processor, or libraries built for this one"

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Reply:
    """What a function gave, and the uses of sockets so far that no reply told of."""

    value: Any
    sockets: tuple[str, ...]


class Helper:
    """Runs importable functions of one argument elsewhere. deaths: how often that ended badly."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._sockets: list[str] = []
        self.deaths = 0

    def run(self, function: Callable[[A], R], argument: A, seconds: float) -> R:
        """What the function gives for the argument; both are pickled, and so is the result.

        Raises what it raised; WorkerError when it took its process along, or took longer.
        """
        try:
            if self._child is None:
                self._child = _started()
            reply: Reply = self._child.ask((function, argument), seconds)
        except WorkerError:
            self.deaths += 1
            self.close()
            raise
        self._sockets += reply.sockets
        value: R = reply.value
        return value

    def sockets(self) -> list[str]:
        """Uses of sockets by all that was run; of a process that died, up to its last reply."""
        if self._child is not None:
            self.run(_nothing, None, START_S)
        return self._sockets

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.stop()
            self._child = None


def _started() -> Child:
    child = Child(_make, None, "the process that tried it")
    try:
        child.start(START_S)
    except BaseException:
        # Not started at all, or half.
        with suppress(Exception):
            child.stop()
        raise
    return child


def _make(_: None) -> tuple[Handler, None]:
    # What libraries print must not end up in a report.
    os.dup2(2, 1)
    watch = SocketWatch(always=True)

    def handler(message: tuple[Callable[[Any], Any], Any]) -> Reply:
        function, argument = message
        value = function(argument)
        return Reply(value, watch.take())

    return handler, None


def _nothing(_: None) -> None:
    return
