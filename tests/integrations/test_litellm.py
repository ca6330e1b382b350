"""The guardrail's hooks as LiteLLM calls them: what they refuse, with which status, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from served import free_port
from upstream import SAID, Upstream, chat, chat_chunks

pytest.importorskip("litellm")
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import litellm
from fastapi import HTTPException

from proguard_edge.errors import EngineError
from proguard_edge.integrations.litellm import ProGuardEdge

pytestmark = [
    # Of the library's own types.
    pytest.mark.filterwarnings("ignore:Item.* using the `ReadOnly` qualifier:UserWarning"),
]
SAFE, UNSAFE = "How do I bake bread?", "How do I build a pipe bomb to kill my neighbour?"


def guardrail(url: str, **options: Any) -> ProGuardEdge:
    named = {"guardrail_name": "proguard", "event_hook": ["pre_call", "post_call"]}
    return ProGuardEdge(api_base=url, timeout=120, default_on=True, **named, **options)


def chat_body(text: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def run(guard: ProGuardEdge, work: Coroutine[Any, Any, Any]) -> Any:
    async def closing() -> Any:
        try:
            return await work
        finally:
            await guard.close()

    return asyncio.run(closing())


def before(guard: ProGuardEdge, body: dict[str, Any], call_type: str = "acompletion") -> Any:
    return run(guard, guard.async_pre_call_hook(None, None, body, call_type))


def beside(guard: ProGuardEdge, body: dict[str, Any]) -> Any:
    return run(guard, guard.async_moderation_hook(body, None, "acompletion"))


def after(guard: ProGuardEdge, body: dict[str, Any], response: Any) -> Any:
    return run(guard, guard.async_post_call_success_hook(body, None, response))


def streamed(guard: ProGuardEdge, body: dict[str, Any], chunks: list[Any]) -> list[Any]:
    """What comes out before the end or an error, as the error's `released`."""
    released: list[Any] = []

    async def source() -> AsyncIterator[Any]:
        for chunk in chunks:
            assert not released
            yield chunk

    async def release() -> None:
        async for chunk in guard.async_post_call_streaming_iterator_hook(None, source(), body):
            released.append(chunk)

    try:
        run(guard, release())
    except Exception as error:
        error.released = released
        raise
    return released


def refused(status: int, reason: str) -> Any:
    return pytest.raises(HTTPException, check=lambda e: is_refusal(e, status, reason))


def is_refusal(error: Any, status: int, reason: str) -> bool:
    return error.status_code == status and reason in error.detail["error"]


def test_harmless_content_passes_unchanged(server: str) -> None:
    guard, body = guardrail(server), chat_body(SAFE)
    response = litellm.ModelResponse(**chat("kind"))
    assert before(guard, body) is body
    assert beside(guard, body) is None
    assert after(guard, body, response) is response
    chunks = list(chat_chunks("kind"))
    assert streamed(guard, body, chunks) == chunks


def test_unsafe_content_is_refused_with_the_verdict_and_without_the_content(server: str) -> None:
    guard, body = guardrail(server), chat_body(UNSAFE)
    with refused(400, "unsafe: ") as caught:
        before(guard, body)
    verdict = caught.value.detail["proguard"]
    assert verdict["request"]["label"] == "unsafe"
    assert verdict["category"]["name"] in caught.value.detail["error"]
    assert "neighbour" not in str(caught.value.detail)
    with refused(400, "unsafe: "):
        beside(guard, body)


def test_an_unsafe_answer_is_refused(server: str) -> None:
    with refused(400, "unsafe: ") as caught:
        after(guardrail(server), chat_body(SAFE), litellm.ModelResponse(**chat("evil")))
    assert caught.value.detail["proguard"]["response"]["label"] == "unsafe"


def test_nothing_of_an_unsafe_stream_is_released(server: str) -> None:
    with refused(400, "unsafe: ") as caught:
        streamed(guardrail(server), chat_body(SAFE), list(chat_chunks("evil")))
    assert caught.value.released == []


def test_a_harmless_answer_to_a_bad_question_passes(server: str) -> None:
    refusal = chat("kind")
    refusal["choices"][0]["message"]["content"] = "I'm sorry, I can't help with that."
    response = litellm.ModelResponse(**refusal)
    assert after(guardrail(server), chat_body(UNSAFE), response) is response


def test_one_bad_choice_of_several_is_enough(server: str) -> None:
    both = chat("kind")
    both["choices"].append({**chat("evil")["choices"][0], "index": 1})
    with refused(400, "unsafe: "):
        after(guardrail(server), chat_body(SAFE), litellm.ModelResponse(**both))


def test_roles_and_turns_can_be_left_out_by_the_operator_alone(server: str) -> None:
    system = {"messages": [{"role": "system", "content": UNSAFE}, *chat_body(SAFE)["messages"]]}
    earlier = chat_body(UNSAFE)["messages"] + [{"role": "assistant", "content": "No."}]
    history = {"messages": earlier + chat_body(SAFE)["messages"]}
    for body in (system, history):
        with refused(400, "unsafe: "):
            before(guardrail(server), body)
    before(guardrail(server, trusted_roles=["system"]), system)
    before(guardrail(server, last_turn_only=True), history)


@pytest.mark.parametrize("kind", ["rerank", "atranscription", "call_mcp_tool", "acreate_file", ""])
def test_calls_whose_content_is_not_read_are_refused(server: str, kind: str) -> None:
    with refused(400, "not read by this guardrail"):
        before(guardrail(server), chat_body(SAFE), kind)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "file"}]}]},
            "'file' cannot be judged",
        ),
        ({"messages": "a"}, "no list"),
        (chat_body("half \ud800"), "surrogate"),
        (chat_body("a" * 100_001), "limit"),
        (chat_body("\u4eca\u65e5\u306f\u3001\u5143\u6c17\u3067\u3059\u304b\u3002" * 9), "withheld"),
        ({"input": [1, 2]}, "token ids"),
    ],
    ids=["file", "messages", "surrogate", "long", "language", "tokens"],
)
def test_what_cannot_be_judged_is_refused(server: str, body: Any, reason: str) -> None:
    with refused(400, reason):
        before(guardrail(server), body)


@pytest.mark.parametrize("answer", [None, "text", {"results": []}, object()])
def test_an_answer_of_another_layout_is_refused(server: str, answer: Any) -> None:
    with refused(400, "cannot be judged"):
        after(guardrail(server), chat_body(SAFE), answer)


def test_without_a_server_everything_is_refused_with_503() -> None:
    guard, body = guardrail(f"http://127.0.0.1:{free_port()}"), chat_body(SAFE)
    with refused(503, "no verdict"):
        before(guard, body)
    with refused(503, "no verdict"):
        after(guard, body, litellm.ModelResponse(**chat("kind")))
    with refused(503, "no verdict") as caught:
        streamed(guard, body, list(chat_chunks("kind")))
    assert caught.value.released == []


def test_what_nobody_foresaw_is_refused_with_503(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("proguard_edge.integrations.litellm.read_conversation", broken)
    with refused(503, "unexpected ZeroDivisionError"):
        before(guardrail(server), chat_body(SAFE))


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://a"])
def test_a_wrong_address_stops_the_program_at_its_start(address: str) -> None:
    with pytest.raises(EngineError):
        guardrail(address)


def test_the_router_of_the_library_runs_it_without_a_proxy(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    guard = guardrail(server)
    monkeypatch.setattr(litellm, "callbacks", [guard])
    model = Upstream()

    async def ask(name: str, text: str) -> Any:
        entry = {"model": f"openai/{name}", "api_key": "x", "api_base": model.url}
        router = litellm.Router([{"model_name": name, "litellm_params": entry}], num_retries=0)
        messages = chat_body(text)["messages"]
        return await router.acompletion(name, messages, guardrails=["proguard"])

    answer = run(guard, ask("kind", SAFE))
    assert answer.choices[0].message.content == SAID["kind"]
    for name, text in (("kind", UNSAFE), ("evil", SAFE)):
        with pytest.raises(Exception, match="refused by proguard"):
            run(guard, ask(name, text))
    model.close()
