"""Lines: a body that is read ahead of the work on it, and no further than it may lie here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from proguard_edge.errors import LimitError

AHEAD_BYTES = 64 << 20
# What a line takes in memory beside its bytes.
LINE_BYTES = 200


class Lines:
    """The lines of a body with their numbers from 1; empty ones are counted and left out.

    whole: all of the body came. gone: the client has gone, and nobody waits for answers.
    """

    def __init__(self, max_line: int, seconds: float) -> None:
        """max_line: bytes; a longer one comes as its LimitError. seconds: for the next piece."""
        self.whole = self.gone = False
        self._max, self._seconds = max_line, seconds
        self._number = self._held = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._lines: asyncio.Queue[tuple[int, bytes | LimitError] | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    async def fill(self, receive: Any) -> None:
        """Read the body, and then wait for the client to go."""
        try:
            self.whole = await self._read(receive)
        finally:
            self._lines.put_nowait(None)
        while not self.gone:
            self.gone = (await receive())["type"] == "http.disconnect"

    async def _read(self, receive: Any) -> bool:
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    message = await receive()
            except TimeoutError:
                return False
            if message["type"] != "http.request":
                self.gone = True
                return False
            *whole, rest = message.get("body", b"").split(b"\n")
            for part in whole:
                self._keep(part)
                await self._end()
            self._keep(rest)
            if not message.get("more_body"):
                if self._size:
                    await self._end()
                return True

    def _keep(self, part: bytes) -> None:
        """A piece of the line that is under way; of one that is too long only the length."""
        self._size += len(part)
        if self._size <= self._max:
            self._parts.append(part)
        else:
            self._parts.clear()

    async def _end(self) -> None:
        """The line that is under way is whole."""
        self._number += 1
        line: bytes | LimitError = b"".join(self._parts)
        if self._size > self._max:
            line = LimitError(f"a line of more than {self._max} bytes")
        self._parts.clear()
        self._size = 0
        if isinstance(line, LimitError) or line.strip():
            self._held += _weight(line)
            self._lines.put_nowait((self._number, line))
            if self._held > AHEAD_BYTES:
                self._room.clear()
                await self._room.wait()

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes | LimitError]]:
        while (item := await self._lines.get()) is not None:
            yield item
            self._held -= _weight(item[1])
            if self._held <= AHEAD_BYTES:
                self._room.set()


def _weight(line: bytes | LimitError) -> int:
    return LINE_BYTES + (len(line) if isinstance(line, bytes) else 0)
