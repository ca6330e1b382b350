"""AsyncClient: one request after another, many at once in order, or a stream behind the others."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from proguard_edge.address import bearer, server_address
from proguard_edge.client.answers import Outcome, parsed, read_error, read_verdict
from proguard_edge.client.content import body_of
from proguard_edge.client.ordered import in_order
from proguard_edge.client.stream import Line, blocks, read_lines
from proguard_edge.errors import (
    AnswerError,
    DeadlineError,
    EngineError,
    ProGuardEdgeError,
    ServiceError,
    WorkerError,
)
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.template import Mode
from proguard_edge.verdict import Verdict

if TYPE_CHECKING:
    from proguard_edge.request import ImageSource

# Of the longest answer: a verdict with its reasoning, or the policies of a server.
MAX_ANSWER_BYTES = 16 << 20
# Less than the server's own patience: it must not close a connection just as it is used again.
KEPT_S = 5.0


@dataclass(frozen=True)
class ServedPolicy:
    """A policy that requests may name. digest: as `Policy.digest` gives it."""

    name: str
    title: str
    version: str
    digest: str


class AsyncClient:
    """Asks one server. Belongs to one event loop; tasks may share it.

    No proxy of the environment is used and no redirect is followed: content goes to `base_url`
    and nowhere else.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """base_url: http://HOST:PORT. timeout: seconds for one request, its retries included.

        retries: how often a request is sent again that the server was too busy for, was not ready
        for, or did not get. tls: for a certificate of your own authority.
        Raises EngineError for what is no address or no key, and without the extra `client`.
        """
        httpx = _httpx()
        server_address(base_url, "http://HOST:PORT")
        if not timeout > 0 or retries < 0:
            raise EngineError("the timeout must be above 0, and retries not below")
        self._url = base_url.rstrip("/").removesuffix("/v1")
        self._timeout, self._retries = timeout, retries
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key is not None:
            headers["Authorization"] = bearer(api_key, "api_key")
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=None,
            trust_env=False,
            follow_redirects=False,
            verify=tls if tls is not None else True,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_S),
        )

    async def moderate(
        self,
        user: str | None = None,
        image: ImageSource | Iterable[ImageSource] | None = None,
        response: str | None = None,
        *,
        policy: Policy | str | None = None,
        mode: Mode | None = None,
    ) -> Verdict:
        """The verdict on a user turn (text, image or both) and the agent's response, if any.

        policy: a name that the server knows, or a policy to send along; mode: None = the server's.
        Raises what `Guard.moderate` raises; ServiceError and those below it when no verdict came,
        AnswerError when what came was none.
        """
        return await self.judge(Request.of(user, image, response), policy=policy, mode=mode)

    async def judge(
        self, request: Request, *, policy: Policy | str | None = None, mode: Mode | None = None
    ) -> Verdict:
        """`moderate` for a Request."""
        body = await asyncio.to_thread(body_of, request, policy, mode)
        answer = await self._answer("POST", "/v1/verdicts", body)
        return read_verdict(parsed(answer), request, mode)

    def moderate_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        concurrency: int = 4,
        policy: Policy | str | None = None,
        mode: Mode | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """A verdict for each request in order, or the error in its place; none stops the rest.

        At most `concurrency` requests are taken that have not been answered yet. The server turns
        away what would wait too long: `stream` waits instead, behind all others.
        """

        async def outcome(request: Request) -> Outcome:
            try:
                return await self.judge(request, policy=policy, mode=mode)
            except ProGuardEdgeError as error:
                return error

        return in_order(requests, outcome, concurrency)

    async def stream(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        policy: Policy | str | None = None,
        mode: Mode | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """`moderate_many` for bulk: never turned away, and behind what others wait for.

        Sent in blocks of a few requests, answered when the whole block is judged.
        """
        async for block in blocks(requests, policy, mode):
            for found in await self._judge_block(block, mode):
                yield found

    async def policies(self) -> tuple[ServedPolicy, ...]:
        """The policies that requests may name. Raises ServiceError, AnswerError, EngineError."""
        listed = parsed(await self._answer("GET", "/v1/policies")).get("policies")
        fields = ("name", "title", "version", "digest")
        try:
            found = [[str(entry[name]) for name in fields] for entry in listed or ()]
        except (TypeError, KeyError, LookupError):
            found = []
        if not found:
            raise AnswerError("the server's answer lists no policies")
        return tuple(ServedPolicy(*entry) for entry in found)

    async def ready(self) -> bool:
        """Whether a request would be judged now; False too where nobody answers."""
        try:
            async with asyncio.timeout(self._timeout):
                return parsed(await self._send("GET", "/readyz", None)).get("ready") is True
        except (ProGuardEdgeError, TimeoutError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _judge_block(self, block: list[Line], mode: Mode | None) -> list[Outcome]:
        """One outcome for each line, in order."""
        sent = [line for line in block if line.error is None]
        try:
            body = b"\n".join(line.body for line in sent)
            # A line takes its turn behind others, so the time that one request has is for each.
            seconds = self._timeout * max(1, len(sent))
            raw = await self._answer("POST", "/v1/verdicts/batch", body, seconds) if sent else b""
        except ProGuardEdgeError as error:
            return [line.error or error for line in block]
        return read_lines(raw, block, mode)

    async def _answer(
        self, method: str, path: str, body: bytes | None = None, seconds: float | None = None
    ) -> bytes:
        """The body of an answer with status 200, after retries. Raises ProGuardEdgeError.

        seconds: for all of it; None = the client's timeout.
        """
        allowed = seconds or self._timeout
        until = asyncio.get_running_loop().time() + allowed
        try:
            async with asyncio.timeout_at(until):
                for attempt in range(self._retries):
                    try:
                        return await self._send(method, path, body)
                    except ServiceError as error:
                        await _pause(error, attempt, until)
                return await self._send(method, path, body)
        except TimeoutError:
            raise DeadlineError(f"{self._url}: no answer within {allowed:g} s") from None

    async def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        """The body of an answer with status 200. Raises ProGuardEdgeError."""
        httpx = _httpx()
        if self._http.is_closed:
            raise EngineError("the client was closed: make another")
        url, raw = self._url + path, bytearray()
        try:
            async with self._http.stream(method, url, content=body) as answer:
                async for piece in answer.aiter_raw():
                    raw += piece
                    if len(raw) > MAX_ANSWER_BYTES:
                        raise AnswerError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            raise ServiceError(f"{self._url}: no answer: {what:.200}", 0.2) from None
        if 300 <= answer.status_code < 400:
            raise EngineError(f"{self._url}: redirects; give the address that answers itself")
        if answer.status_code != 200:
            raise read_error(answer.status_code, bytes(raw), answer.headers.get("Retry-After"))
        return bytes(raw)


async def _pause(error: ServiceError, attempt: int, until: float) -> None:
    """Wait before another try; raises the error where none makes sense, or time is too short."""
    # The worker died of this very request, as far as anybody knows; and a deadline that passed
    # once will pass again.
    hopeless = type(error) is WorkerError or isinstance(error, DeadlineError)
    # Together with it, all whom the server sent away would come back at the same moment.
    pause = error.retry_after * 2**attempt * random.uniform(1.0, 1.5)
    if hopeless or asyncio.get_running_loop().time() + pause >= until:
        raise error
    await asyncio.sleep(pause)


def _httpx() -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the client needs {error.name}: pip install 'proguard-edge[client]'"
        ) from None
    return httpx
