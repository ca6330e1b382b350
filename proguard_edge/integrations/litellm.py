"""LiteLLM: a guardrail that asks a proguard-edge server about requests and answers.

In the LiteLLM proxy's config.yaml, with proguard-edge[client] installed beside it:

    guardrails:
      - guardrail_name: proguard
        litellm_params:
          guardrail: proguard_edge.integrations.litellm.ProGuardEdge
          mode: [pre_call, post_call]      # or during_call: beside the model's own work
          default_on: true
          api_base: http://127.0.0.1:8080
          api_key: os.environ/PROGUARD_EDGE_API_KEY    # where the server has keys
          # policy: strict            a name that the server knows
          # trusted_roles: [system]   where only your own program writes system prompts
          # last_turn_only: true      earlier turns are then the client's word

What is unsafe gets status 400 with the verdict, what cannot be judged (a file, an image's address)
400 too; where no verdict was reached, because the server is busy, unreachable or in error, 503. A
stream is held back until its answer is judged. Calls of other kinds than chat, completions,
responses, messages, embeddings and images are refused: their content is not read here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.types.guardrails import GuardrailEventHooks

from proguard_edge.client import AsyncClient
from proguard_edge.errors import ArtifactError, InputError, PolicyError, ProGuardEdgeError
from proguard_edge.integrations.answers import read_answers, read_stream
from proguard_edge.integrations.conversations import Part, Turn, read_conversation
from proguard_edge.request import Request
from proguard_edge.template import Mode
from proguard_edge.verdict import Verdict

READ = frozenset(
    {
        *("completion", "acompletion", "text_completion", "atext_completion"),
        *("responses", "aresponses", "anthropic_messages", "aanthropic_messages"),
        *("embedding", "aembedding", "embeddings", "image_generation", "aimage_generation"),
        *("moderation", "amoderation"),
    }
)
_WIDTH = 4


class ProGuardEdge(CustomGuardrail):  # type: ignore[misc, unused-ignore]
    """See the module. Raises fastapi's HTTPException, or GuardrailRaisedException without it."""

    def __init__(
        self,
        api_base: str | None = None,
        api_key: str | None = None,
        policy: str | None = None,
        reasoning: bool = False,
        trusted_roles: Iterable[str] | None = None,
        last_turn_only: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """api_base: http://HOST:PORT of the server. reasoning: let the guard think first.

        trusted_roles: whose messages are not judged ("system", "tool", …; "tools" for descriptions
        of tools). timeout: seconds for one verdict. options: LiteLLM's own.
        """
        self._url, self._key = api_base or "http://127.0.0.1:8080", api_key
        self._seconds = timeout or 60.0
        self._policy = policy
        self._mode: Mode | None = "reason" if reasoning else None
        self._trusted = frozenset(trusted_roles or ())
        self._last_turn_only = last_turn_only
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = (
            WeakKeyDictionary()
        )
        # A wrong address or key is to stop the program now, not its first request.
        self._new_client()
        hooks = GuardrailEventHooks
        options.setdefault(
            "supported_event_hooks", [hooks.pre_call, hooks.during_call, hooks.post_call]
        )
        super().__init__(timeout=timeout, **options)

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,  # noqa: ARG002
        cache: Any,  # noqa: ARG002
        data: dict[str, Any],
        call_type: str,
    ) -> dict[str, Any]:
        """Judge the request before the model gets it."""
        await self._judge_request(data, call_type)
        return data

    async def async_moderation_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,  # noqa: ARG002
        call_type: str,
    ) -> None:
        """Judge the request while the model works on it; its answer waits."""
        await self._judge_request(data, call_type)

    async def async_post_call_success_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,  # noqa: ARG002
        response: Any,
    ) -> Any:
        """Judge the answer."""
        with _Refusals(self):
            await self._judge_answers(data, read_answers(response))
        return response

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,  # noqa: ARG002
        response: Any,
        request_data: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        """Hold the answer back until all of it is judged."""
        chunks = [chunk async for chunk in response]
        with _Refusals(self):
            await self._judge_answers(request_data, read_stream(chunks))
        for chunk in chunks:
            yield chunk

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        if client := self._clients.pop(asyncio.get_running_loop(), None):
            await client.close()

    async def _judge_request(self, data: Mapping[str, Any], call_type: str) -> None:
        with _Refusals(self):
            if call_type not in READ:
                raise InputError(f"calls of type {call_type!r:.40} are not read by this guardrail")
            conversation = read_conversation(data, self._trusted)
            await self._judge(conversation.requests(self._last_turn_only))

    async def _judge_answers(self, data: Mapping[str, Any], answers: list[Part]) -> None:
        """Each choice as the answer to the last turn; only what was answered counts here."""
        turns = read_conversation(data).turns
        asked = turns[-1].user if turns else Part()
        said = [answer for answer in answers if answer.texts or answer.images]
        await self._judge(
            [request for answer in said for request in Turn(asked, answer).requests()], answer=True
        )

    async def _judge(self, requests: list[Request], answer: bool = False) -> None:
        outcomes = self._client().moderate_many(
            requests, concurrency=_WIDTH, policy=self._policy, mode=self._mode
        )
        async with aclosing(outcomes):
            async for outcome in outcomes:
                if not isinstance(outcome, Verdict):
                    raise outcome
                # A harmless answer to a bad question, a refusal for one, is fine.
                said = outcome.response if answer else None
                if outcome.unsafe if said is None else said.label == "unsafe":
                    raise _Unsafe(outcome)

    def _client(self) -> AsyncClient:
        """Of the running event loop: connections belong to one."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = self._new_client()
        return self._clients[loop]

    def _new_client(self) -> AsyncClient:
        return AsyncClient(self._url, self._key, timeout=self._seconds)


class _Unsafe(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__("unsafe")
        self.verdict = verdict


class _Refusals:
    """Turns whatever is raised inside into the exception that makes LiteLLM refuse."""

    def __init__(self, guardrail: ProGuardEdge) -> None:
        self._name = guardrail.guardrail_name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _Unsafe):
            raise self._refusal(400, _named(error.verdict), error.verdict) from None
        if isinstance(error, InputError | ArtifactError | PolicyError):
            raise self._refusal(400, f"not judged: {error}") from None
        if isinstance(error, ProGuardEdgeError):
            raise self._refusal(503, f"no verdict: {error}") from None
        if isinstance(error, Exception):
            raise self._refusal(503, f"no verdict: unexpected {type(error).__name__}") from error

    def _refusal(self, status: int, message: str, verdict: Verdict | None = None) -> Exception:
        detail: dict[str, Any] = {"error": f"refused by {self._name}: {message}"}
        if verdict is not None:
            known = verdict.to_dict()
            detail["proguard"] = {name: known[name] for name in ("request", "response", "category")}
        try:
            from fastapi import HTTPException
        except ModuleNotFoundError:
            error: Exception = GuardrailRaisedException(guardrail_name=self._name, message=message)
            return error
        return HTTPException(status, detail)


def _named(verdict: Verdict) -> str:
    """What a person is told: the category, and nothing of the content."""
    risk = verdict.category
    return "unsafe" if risk is None else f"unsafe: {risk.name}{f' ({risk.id})' if risk.id else ''}"
