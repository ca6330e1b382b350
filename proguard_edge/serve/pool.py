"""Pool: children behind one bounded queue. Who waits, who is next, who is turned away.

Two lanes. A request that a client waits for is *admitted* or turned away at once, by how long it
would wait; rows of a list or of a batch stream are *bulk*: never turned away, each stream has one
at a time, and they go behind admitted requests, but get one turn in `BULK_EVERY`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from proguard_edge.child import Child
from proguard_edge.errors import (
    BusyError,
    DeadlineError,
    ProGuardEdgeError,
    ServiceError,
    StartingError,
    WorkerError,
)

BULK_EVERY = 4
MAX_PAUSE_S = 30.0


@dataclass(frozen=True)
class Limits:
    """queue: most admitted requests that wait. max_wait_s: expected wait from which one is turned
    away, seconds. deadline_s: from arrival to answer. start_s, hang_s: a child that takes longer to
    start, or to answer, is killed."""

    queue: int = 256
    max_wait_s: float = 15.0
    deadline_s: float = 30.0
    start_s: float = 900.0
    hang_s: float = 120.0


@dataclass(frozen=True)
class Answer:
    """What the child said, and how long the message waited and was worked on, seconds."""

    value: Any
    waited_s: float
    worked_s: float


class _Job:
    def __init__(self, message: Any) -> None:
        self.message = message
        self.arrived = time.perf_counter()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Pool:
    """Workers that restart when they die. Belongs to one event loop."""

    def __init__(self, spawn: Callable[[], Child], workers: int, limits: Limits) -> None:
        self.limits = limits
        self.restarts = 0
        self.ready = 0
        self.facts: Any = None
        self._spawn, self._size = spawn, workers
        self._admitted: deque[_Job] = deque()
        self._bulk: deque[_Job] = deque()
        self._running = 0
        self._turn = 0
        self._service_s: float | None = None
        self._start_s = 1.0
        self._wake = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        # `start` and `ask` block a thread until their child has answered or is killed.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="child")

    async def start(self) -> Any:
        """Start the workers; what the first said of itself.

        Raises what the first could not start for: an artifact that is broken now will not mend.
        """
        child = self._spawn()
        self.facts = await self._begin(child)
        others: list[Child | None] = [None] * (self._size - 1)
        self._tasks = [asyncio.create_task(self._work(c)) for c in (child, *others)]
        return self.facts

    async def stop(self) -> None:
        """End the workers. Whoever still waits gets a ServiceError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in (*self._admitted, *self._bulk):
            job.fail(ServiceError("the server is stopping"))
        self._threads.shutdown(wait=False)

    @property
    def waiting(self) -> int:
        """Messages that no worker has begun."""
        return len(self._admitted) + len(self._bulk)

    @property
    def _ahead(self) -> int:
        """How many must be done before a message admitted now is begun."""
        return max(0, len(self._admitted) + self._running + 1 - self.ready)

    @property
    def expected_wait_s(self) -> float:
        """How long a message admitted now would wait, going by the recent ones."""
        return self._ahead * (self._service_s or 0.0) / max(1, self.ready)

    async def submit(
        self, message: Any, *, bulk: bool = False, until: float | None = None
    ) -> Answer:
        """A worker's answer. Raises BusyError, DeadlineError, WorkerError, and what it raised.

        until: the loop's time by which it must be here; None = `deadline_s` from now.
        A caller that is cancelled takes its message along, where no worker has begun it.
        """
        self._admit(bulk)
        job = _Job(message)
        lane = self._bulk if bulk else self._admitted
        async with self._wake:
            lane.append(job)
            self._wake.notify()
        if until is None:
            until = asyncio.get_running_loop().time() + self.limits.deadline_s
        try:
            async with asyncio.timeout_at(until):
                return await job.answer
        except TimeoutError:
            raise DeadlineError(
                f"no verdict within {self.limits.deadline_s:g} s", max(1.0, self.expected_wait_s)
            ) from None
        finally:
            if job in lane:
                lane.remove(job)

    def _admit(self, bulk: bool) -> None:
        if not self.ready:
            raise self._starting()
        if bulk:
            return
        wait = self.expected_wait_s
        if self._ahead > self.limits.queue or wait > self.limits.max_wait_s:
            raise BusyError(
                f"{len(self._admitted)} requests wait; come back in {max(1.0, wait):.0f} s",
                max(1.0, wait),
            )

    async def _work(self, child: Child | None) -> None:
        """One worker's life: start, serve until it dies, and again."""
        pause = 0.5
        while True:
            try:
                if child is None:
                    child = self._spawn()
                    await self._begin(child)
                pause = 0.5
                self.ready += 1
                try:
                    await self._serve(child)
                finally:
                    self.ready -= 1
            # Also what nobody foresaw, such as no memory for a process: a worker that is not tried
            # again is lost for ever.
            except Exception:  # noqa: BLE001
                self._give_up()
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_S)
            finally:
                if child is not None:
                    child.stop()
                child = None
            self.restarts += 1

    async def _begin(self, child: Child) -> Any:
        begin = time.perf_counter()
        try:
            facts = await self._block(child, child.start, self.limits.start_s)
        except BaseException:
            child.stop()
            raise
        self._start_s = time.perf_counter() - begin
        return facts

    def _give_up(self) -> None:
        """With no worker left, nobody is kept waiting for one that may not come back."""
        if not self.ready:
            for job in (*self._admitted, *self._bulk):
                job.fail(self._starting())

    def _starting(self) -> StartingError:
        return StartingError("it is starting; nothing was judged", max(1.0, self._start_s))

    async def _serve(self, child: Child) -> None:
        """Answer messages until the child dies."""
        while True:
            job = await self._next()
            self._running += 1
            begin = time.perf_counter()
            try:
                value = await self._block(child, child.ask, job.message, self.limits.hang_s)
            except WorkerError as error:
                job.fail(error)
                return
            except ProGuardEdgeError as error:
                job.fail(error)
            except asyncio.CancelledError:
                job.fail(ServiceError("the server is stopping"))
                raise
            except Exception as error:
                job.fail(WorkerError(f"unexpected {type(error).__name__}; nothing was decided"))
                raise
            else:
                self._done(job, value, begin)
            finally:
                self._running -= 1

    def _done(self, job: _Job, value: Any, begin: float) -> None:
        worked = time.perf_counter() - begin
        known = self._service_s
        self._service_s = worked if known is None else 0.9 * known + 0.1 * worked
        if not job.answer.done():
            job.answer.set_result(Answer(value, begin - job.arrived, worked))

    async def _next(self) -> _Job:
        async with self._wake:
            await self._wake.wait_for(lambda: self._admitted or self._bulk)
            self._turn += 1
            bulk = self._bulk and (not self._admitted or self._turn % BULK_EVERY == 0)
            return (self._bulk if bulk else self._admitted).popleft()

    async def _block(self, child: Child, call: Callable[..., Any], *args: Any) -> Any:
        """`call` in a thread. Whoever cancels it kills the child, and the thread comes back."""
        called = asyncio.get_running_loop().run_in_executor(self._threads, call, *args)
        try:
            return await asyncio.shield(called)
        except asyncio.CancelledError:
            child.kill()
            await asyncio.wait([called])
            called.exception()
            raise
