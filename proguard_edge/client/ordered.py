"""Work on many things at once, results in order, and a bound on what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    things: Iterable[T] | AsyncIterable[T], work: Callable[[T], Awaitable[R]], width: int
) -> AsyncGenerator[R, None]:
    """`work` of each thing, in order, as soon as it is there.

    At most `width` things are taken whose result was not. Raises what `things` and `work` raise.
    """
    if width < 1:
        raise ValueError("at least one thing must be under way")
    tasks: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    begun: set[asyncio.Future[R]] = set()
    room = asyncio.Semaphore(width - 1)

    async def feed() -> None:
        try:
            async for thing in each(things):
                task = asyncio.ensure_future(work(thing))
                begun.add(task)
                tasks.put_nowait(task)
                await room.acquire()
        finally:
            tasks.put_nowait(None)

    feeding = asyncio.create_task(feed())
    try:
        while (task := await tasks.get()) is not None:
            result = await task
            begun.discard(task)
            yield result
            room.release()
        await feeding
    finally:
        feeding.cancel()
        for each_task in begun:
            each_task.cancel()
        await asyncio.gather(feeding, *begun, return_exceptions=True)


async def each(things: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The things, whether they come at once or one by one."""
    if isinstance(things, AsyncIterable):
        async for thing in things:
            yield thing
    else:
        for thing in things:
            yield thing
