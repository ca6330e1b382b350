"""Client: the asynchronous client for programs that are not. Its loop has a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from proguard_edge.client.aio import AsyncClient, ServedPolicy
from proguard_edge.client.answers import Outcome
from proguard_edge.closing import Closing
from proguard_edge.errors import EngineError
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.template import Mode
from proguard_edge.verdict import Verdict

if TYPE_CHECKING:
    from proguard_edge.request import ImageSource

T = TypeVar("T")


class Client(Closing):
    """See `AsyncClient`, whose methods these are. Threads may share it; close it after use."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """See `AsyncClient`."""
        self._client = AsyncClient(base_url, api_key, timeout=timeout, retries=retries, tls=tls)
        self._loop = asyncio.new_event_loop()
        # A program that forgets to close the client must still be able to end.
        self._thread = threading.Thread(target=self._loop.run_forever, name="client", daemon=True)
        self._thread.start()

    def moderate(
        self,
        user: str | None = None,
        image: ImageSource | Iterable[ImageSource] | None = None,
        response: str | None = None,
        *,
        policy: Policy | str | None = None,
        mode: Mode | None = None,
    ) -> Verdict:
        """See `AsyncClient.moderate`."""
        return self.judge(Request.of(user, image, response), policy=policy, mode=mode)

    def judge(
        self, request: Request, *, policy: Policy | str | None = None, mode: Mode | None = None
    ) -> Verdict:
        """See `AsyncClient.judge`."""
        return self._run(self._client.judge(request, policy=policy, mode=mode))

    def moderate_many(
        self,
        requests: Iterable[Request],
        *,
        concurrency: int = 4,
        policy: Policy | str | None = None,
        mode: Mode | None = None,
    ) -> Iterator[Outcome]:
        """See `AsyncClient.moderate_many`."""
        return self._each(
            self._client.moderate_many(requests, concurrency=concurrency, policy=policy, mode=mode)
        )

    def stream(
        self,
        requests: Iterable[Request],
        *,
        policy: Policy | str | None = None,
        mode: Mode | None = None,
    ) -> Iterator[Outcome]:
        """See `AsyncClient.stream`."""
        return self._each(self._client.stream(requests, policy=policy, mode=mode))

    def policies(self) -> tuple[ServedPolicy, ...]:
        """See `AsyncClient.policies`."""
        return self._run(self._client.policies())

    def ready(self) -> bool:
        """See `AsyncClient.ready`."""
        return self._run(self._client.ready())

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _each(self, outcomes: AsyncGenerator[Outcome, None]) -> Iterator[Outcome]:
        try:
            while (found := self._run(_next(outcomes))) is not None:
                yield found
        finally:
            self._run(_end(outcomes))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise EngineError("the client was closed: make another")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _next(outcomes: AsyncGenerator[Outcome, None]) -> Outcome | None:
    return await anext(outcomes, None)


async def _end(outcomes: AsyncGenerator[Outcome, None]) -> None:
    await outcomes.aclose()
