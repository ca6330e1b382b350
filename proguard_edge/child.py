"""Child: a process of ours that answers one message at a time, and may die without harm.

Engines and image decoders run in children. A model that runs out of memory or a picture that
crashes a decoder takes its child along and nothing else: whoever asked gets a WorkerError.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import proguard_edge.errors
from proguard_edge.errors import EngineError, ProGuardEdgeError, WorkerError

Handler = Callable[[Any], Any]
# Makes the handler in the child, from the spec; whatever it loads is loaded there.
Make = Callable[[Any], tuple[Handler, Any]]


@dataclass(frozen=True)
class Failure:
    """An error on its way between processes: the class's name, and the message."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Whatever was raised. What nobody foresaw becomes an EngineError."""
        if isinstance(error, ProGuardEdgeError):
            return cls(type(error).__name__, str(error))
        return cls("EngineError", f"unexpected {type(error).__name__}: {error}")

    def error(self) -> ProGuardEdgeError:
        """The error again, of its own class."""
        kind = getattr(proguard_edge.errors, self.kind, EngineError)
        error: ProGuardEdgeError = kind(self.message)
        return error


class Child:
    """One process. Not for several threads at once; `start`, `ask` and `stop` block."""

    def __init__(self, make: Make, spec: Any, name: str) -> None:
        """make: an importable function; it and `spec` are pickled. name: for error messages."""
        self._make, self._spec, self._name = make, spec, name
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._killed = False

    def start(self, seconds: float) -> Any:
        """Start the process; what `make` said of itself. Raises what `make` raised, WorkerError."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=_run, args=(self._make, self._spec, theirs), name=self._name
        )
        try:
            process.start()
        except OSError as error:
            raise WorkerError(f"{self._name} cannot start: {error.strerror or error}") from None
        finally:
            theirs.close()
        self._process = process
        if self._killed:
            self._process.kill()
        return self._receive(seconds)

    def ask(self, message: Any, seconds: float) -> Any:
        """The handler's answer. Raises what it raised; WorkerError when the process died, or
        took longer than `seconds` and was killed for it."""
        if self._pipe is None:
            raise WorkerError(f"{self._name} is not running")
        try:
            self._pipe.send(message)
        except OSError:
            raise self._dead() from None
        return self._receive(seconds)

    def kill(self) -> None:
        """End the process from any thread; one that waits in `ask` or `start` gets a WorkerError.

        It holds nothing that it could lose: verdicts are with whoever asked.
        """
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the process and free what belongs to it."""
        self.kill()
        if self._process is not None:
            self._process.join()
            self._process.close()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process is not None else None

    def _receive(self, seconds: float) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(seconds):
                self.stop()
                raise WorkerError(f"{self._name} took longer than {seconds:g} s and was stopped")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

    def _dead(self) -> WorkerError:
        code = None
        if self._process is not None:
            self._process.join(5)
            code = self._process.exitcode
        self.stop()
        return WorkerError(f"{self._name} died ({_cause(code)}); nothing was decided")


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _run(make: Make, spec: Any, pipe: Connection) -> None:
    # Ctrl-C and a supervisor's SIGTERM reach every process of the group; the server drains first
    # and then closes the pipe, which is how a child learns that it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        handler, hello = make(spec)
    except Exception as error:  # noqa: BLE001
        pipe.send(Failure.of(error))
        return
    try:
        pipe.send(hello)
        while True:
            pipe.send(_answer(handler, pipe.recv()))
    except (EOFError, OSError):
        return


def _answer(handler: Handler, message: Any) -> Any:
    try:
        return handler(message)
    # Whatever it is, the server must learn that nothing was decided, and go on.
    except Exception as error:  # noqa: BLE001
        return Failure.of(error)
