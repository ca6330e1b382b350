"""Who waits, who is turned away, and what becomes of it when a worker dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("fastapi")

from stubs import make_echo

from proguard_edge.child import Child
from proguard_edge.errors import (
    ArtifactError,
    BusyError,
    DeadlineError,
    LanguageError,
    ServiceError,
    StartingError,
    WorkerError,
)
from proguard_edge.serve.pool import BULK_EVERY, Limits, Pool

Test = Callable[[Pool], Coroutine[Any, Any, None]]


class Fake(Child):
    """A child without a process: notes what it is asked."""

    asked: list[Any]

    def __init__(self) -> None:
        super().__init__(make_echo, None, "the worker")
        self.asked = []

    def start(self, seconds: float) -> Any:  # noqa: ARG002
        return "hello"

    def ask(self, message: Any, seconds: float) -> Any:  # noqa: ARG002
        self.asked.append(message)
        if message == "die":
            raise WorkerError("died")
        if isinstance(message, float):
            time.sleep(message)
        return message


def with_pool(test: Test, *children: Child, workers: int = 1, **limits: Any) -> None:
    """Run `test` with a pool of these children, or of real ones."""
    spare = iter(children)

    def spawn() -> Child:
        return next(spare) if children else Child(make_echo, None, "the worker")

    async def run() -> None:
        pool = Pool(spawn, workers, Limits(**{"start_s": 30.0, "hang_s": 30.0, **limits}))
        await pool.start()
        while pool.ready < workers:
            await asyncio.sleep(0.01)
        try:
            await test(pool)
        finally:
            await pool.stop()

    asyncio.run(run())


def test_a_message_is_answered_with_its_times() -> None:
    async def test(pool: Pool) -> None:
        answer = await pool.submit(0.05)
        assert answer.value == 0.05
        assert answer.worked_s >= 0.05
        assert answer.waited_s < 0.05

    with_pool(test)


def test_an_error_is_raised_where_it_was_asked_for() -> None:
    async def test(pool: Pool) -> None:
        with pytest.raises(LanguageError):
            await pool.submit("wrong")
        assert (await pool.submit(1)).value == 1
        assert pool.restarts == 0

    with_pool(test)


def test_a_dead_worker_fails_its_own_message_alone_and_comes_back() -> None:
    async def test(pool: Pool) -> None:
        dying = asyncio.create_task(pool.submit("die"))
        waiting = asyncio.create_task(pool.submit("after"))
        with pytest.raises(WorkerError, match="SIGKILL"):
            await dying
        assert (await waiting).value == "after"
        assert pool.restarts == 1

    with_pool(test)


def test_nothing_is_taken_in_while_no_worker_is_there() -> None:
    async def test(pool: Pool) -> None:
        with pytest.raises(WorkerError):
            await pool.submit("die")
        await asyncio.sleep(0)
        with pytest.raises(StartingError) as caught:
            await pool.submit("too early")
        assert caught.value.retry_after >= 1

    with_pool(test)


def test_a_broken_artifact_stops_the_start() -> None:
    async def run() -> None:
        pool = Pool(lambda: Child(make_echo, "no start", "the worker"), 1, Limits())
        with pytest.raises(ArtifactError, match="not 5"):
            await pool.start()
        await pool.stop()

    asyncio.run(run())


def test_an_artifact_that_breaks_later_is_tried_again_until_it_is_mended() -> None:
    class Broken(Fake):
        def start(self, seconds: float) -> Any:  # noqa: ARG002
            raise ArtifactError("truncated")

    async def test(pool: Pool) -> None:
        with pytest.raises(WorkerError):
            await pool.submit("die")
        for _ in range(500):
            await asyncio.sleep(0.01)
            if pool.ready:
                break
        assert (await pool.submit("mended")).value == "mended"

    with_pool(test, Fake(), Broken(), Fake())


def test_more_than_the_queue_holds_is_turned_away() -> None:
    async def test(pool: Pool) -> None:
        running = [asyncio.create_task(pool.submit(0.2)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError, match="2 requests wait") as caught:
            await pool.submit("one more")
        assert caught.value.retry_after >= 1
        await asyncio.gather(*running)

    with_pool(test, Fake(), queue=2, max_wait_s=60.0)


def test_who_would_wait_too_long_is_turned_away_and_an_idle_worker_never_says_so() -> None:
    async def test(pool: Pool) -> None:
        await pool.submit(0.1)
        assert pool.expected_wait_s == 0
        running = [asyncio.create_task(pool.submit(0.1)) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert 0.25 < pool.expected_wait_s < 0.4
        with pytest.raises(BusyError):
            await pool.submit("one more")
        await asyncio.gather(*running)
        assert (await pool.submit("later")).value == "later"

    with_pool(test, Fake(), max_wait_s=0.25)


def test_a_message_that_waits_past_its_deadline_is_never_begun() -> None:
    fake = Fake()

    async def test(pool: Pool) -> None:
        first = asyncio.create_task(pool.submit(0.3))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlineError):
            await pool.submit("late")
        assert pool.waiting == 0
        with pytest.raises(DeadlineError):
            await first
        await asyncio.sleep(0.3)
        assert (await pool.submit("next")).value == "next"

    with_pool(test, fake, deadline_s=0.1)
    assert fake.asked == [0.3, "next"]


def test_a_message_whose_asker_is_gone_is_never_begun() -> None:
    fake = Fake()

    async def test(pool: Pool) -> None:
        first = asyncio.create_task(pool.submit(0.1))
        await asyncio.sleep(0.01)
        gone = asyncio.create_task(pool.submit("gone"))
        await asyncio.sleep(0.01)
        gone.cancel()
        await first

    with_pool(test, fake)
    assert fake.asked == [0.1]


def test_bulk_goes_behind_but_is_not_starved_nor_turned_away() -> None:
    fake = Fake()

    async def test(pool: Pool) -> None:
        tasks = [asyncio.create_task(pool.submit(0.05))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(pool.submit(f"bulk {n}", bulk=True)) for n in range(3)]
        tasks += [asyncio.create_task(pool.submit(n)) for n in range(6)]
        await asyncio.gather(*tasks)

    with_pool(test, fake, queue=6, max_wait_s=60.0)
    order = fake.asked[1:]
    assert order.index("bulk 0") < BULK_EVERY
    assert [m for m in order if isinstance(m, int)] == list(range(6))
    assert order[-2:] == ["bulk 1", "bulk 2"] or order.index("bulk 1") > order.index(3)


def test_two_workers_judge_at_the_same_time() -> None:
    async def test(pool: Pool) -> None:
        begin = time.perf_counter()
        await asyncio.gather(pool.submit(0.3), pool.submit(0.3))
        assert time.perf_counter() - begin < 0.55

    with_pool(test, Fake(), Fake(), workers=2)


def test_stopping_kills_what_hangs_and_tells_whoever_waits() -> None:
    caught: list[BaseException] = []

    async def test(pool: Pool) -> None:
        async def ask(message: str) -> None:
            try:
                await pool.submit(message)
            except ServiceError as error:
                caught.append(error)

        tasks = [asyncio.create_task(ask(m)) for m in ("hang", "waits")]
        await asyncio.sleep(0.1)
        begin = time.perf_counter()
        await pool.stop()
        await asyncio.gather(*tasks)
        assert time.perf_counter() - begin < 5

    with_pool(test)
    assert len(caught) == 2


def test_a_worker_that_cannot_even_be_made_is_tried_again() -> None:
    class Poor(Fake):
        def start(self, seconds: float) -> Any:  # noqa: ARG002
            raise OSError(12, "Cannot allocate memory")

    async def test(pool: Pool) -> None:
        with pytest.raises(WorkerError):
            await pool.submit("die")
        while not pool.ready:
            await asyncio.sleep(0.01)
        assert (await pool.submit("again")).value == "again"

    with_pool(test, Fake(), Poor(), Fake())
