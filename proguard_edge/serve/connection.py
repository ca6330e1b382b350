"""Connection: uvicorn's HTTP/1.1 connection, which does not wait for ever for a header.

A client that sends a byte now and then holds a connection for nothing; uvicorn closes idle
connections, but not these.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol(header_s: float) -> type[H11Protocol]:
    """The connection class for a server that gives clients `header_s` seconds for their headers."""

    class Connection(H11Protocol):
        _overdue: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Run the clock while a header is due or half here, or a body that was answered already
            still comes: uvicorn's own clock stops with every byte."""
            theirs, ours = self.conn.their_state, self.conn.our_state
            answered = theirs is h11.SEND_BODY and ours in (h11.DONE, h11.MUST_CLOSE)
            waiting = theirs is h11.IDLE or answered
            if not waiting or self.transport.is_closing():
                self._unwatch()
            elif self._overdue is None:
                self._overdue = self.loop.call_later(header_s, self._close)

        def _unwatch(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _close(self) -> None:
            self._overdue = None
            if not self.transport.is_closing():
                self.transport.close()

    return Connection
