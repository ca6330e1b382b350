"""Answers of models, whole and in pieces, as what a guard judges: all of it, or an error."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from upstream import SAID, chat, chat_chunks, response, response_events

from proguard_edge.errors import InputError
from proguard_edge.integrations.answers import read_answers, read_stream

PICTURE = b"\x89PNG"
ENCODED = base64.b64encode(PICTURE).decode()


def texts(parts: Any) -> list[list[str]]:
    return [part.texts for part in parts]


def choice(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


def test_whole_answers_are_read_in_every_layout() -> None:
    assert texts(read_answers(chat("kind"))) == [[SAID["kind"]]]
    assert texts(read_answers(response("kind"))) == [[SAID["kind"]]]
    assert texts(read_answers({"choices": [{"text": "a"}, {"text": "b"}]})) == [["a"], ["b"]]
    block = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "a"}]}
    assert texts(read_answers(block)) == [["a"]]


def test_thoughts_calls_and_refusals_are_read_too() -> None:
    call = {"function": {"name": "write", "arguments": '{"text": "b"}'}}
    said = choice(content="a", reasoning_content="hm", refusal="no", tool_calls=[call])
    assert set(read_answers(said)[0].texts) == {"a", "hm", "no", 'write {"text": "b"}'}
    old = choice(content=None, function_call={"name": "write", "arguments": "b"})
    assert texts(read_answers(old)) == [["write b"]]


def test_pictures_in_answers_are_read() -> None:
    url = f"data:image/png;base64,{ENCODED}"
    said = choice(content="a", images=[{"type": "image_url", "image_url": {"url": url}}])
    assert read_answers(said)[0].images == [PICTURE]
    assert read_answers({"data": [{"b64_json": ENCODED}]})[0].images == [PICTURE]


def test_embeddings_hold_nothing_to_read() -> None:
    assert texts(read_answers({"data": [{"embedding": [0.5], "index": 0}]})) == [[]]


@pytest.mark.parametrize(
    "answer",
    [
        *(None, "text", b"bytes", [], {}, {"results": []}, {"choices": None}, {"choices": ["a"]}),
        {"data": [{"url": "https://example.org/a.png"}]},
        {"data": [{}]},
        {"data": ["a"]},
        choice(content=None, audio={"data": "AAAA", "transcript": "a"}),
        choice(content=[{"type": "video", "video": "x"}]),
        {"output": [{"type": "image_generation_call", "result": ENCODED}]},
        {"type": "message", "content": [{"type": "web_search_tool_result", "content": []}]},
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error(answer: Any) -> None:
    with pytest.raises(InputError):
        read_answers(answer)


def test_streams_amount_to_their_whole_answer() -> None:
    assert texts(read_stream(list(chat_chunks("kind")))) == [[SAID["kind"]]]
    assert texts(read_stream([{"choices": [{"index": 0, "text": t}]} for t in "ab"])) == [["ab"]]
    (part,) = read_stream(list(response_events("kind")))
    assert part.texts[0] == SAID["kind"]


def test_choices_and_calls_of_a_stream_are_kept_apart() -> None:
    def piece(index: int, **delta: Any) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": delta}]}

    def call(index: int, **function: str) -> dict[str, Any]:
        return piece(0, tool_calls=[{"index": index, "function": function}])

    chunks = [
        piece(1, content="b1"),
        piece(0, role="assistant", content="a1"),
        call(1, name="second", arguments="2"),
        call(0, name="first", arguments="1"),
        call(1, arguments="22"),
        {"choices": [], "usage": {}},
        piece(0, content="a2", reasoning_content="hm"),
        piece(1, content="b2"),
    ]
    by_first = sorted(texts(read_stream(chunks)))
    assert by_first == [["a1a2", "hm", "second 222", "first 1"], ["b1b2"]]


def test_a_stream_of_anthropic_s_events_is_read() -> None:
    events = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use"}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": '{"c":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "1}"}},
        {"type": "message_stop"},
    ]  # fmt: skip
    raw = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()
    cut = [raw[at : at + 7] for at in range(0, len(raw), 7)]
    assert texts(read_stream(cut)) == texts(read_stream(events)) == [["ab", '{"c":1}']]


def test_deltas_that_differ_from_the_whole_are_judged_as_well() -> None:
    events = list(response_events("kind"))
    events.insert(1, {"type": "response.output_text.delta", "output_index": 9, "delta": "other"})
    (part,) = read_stream(events)
    assert {SAID["kind"], "other"} <= set(part.texts)


def test_a_stream_that_ends_early_is_judged_as_far_as_it_came() -> None:
    assert "Mix flour, " in read_stream(list(response_events("kind"))[:3])[0].texts
    assert texts(read_stream(list(chat_chunks("kind"))[:2])) == [["Mix flour,"]]
    assert read_stream([]) == []


@pytest.mark.parametrize(
    "chunks",
    [
        [object()],
        [{"delta": "a"}],
        [{"choices": [{"delta": {"audio": {"data": "AA"}}}]}],
        [{"type": "response.audio.delta", "delta": "AAAA"}],
        [{"type": "response.image_generation_call.partial_image", "partial_image_b64": "AA"}],
        [{"type": "content_block_start", "content_block": {"type": "image"}}],
        [b"data: {broken\n\n"],
        [b"data: [1]\n\n"],
    ],
)
def test_a_stream_that_cannot_be_read_is_an_error(chunks: Any) -> None:
    with pytest.raises(InputError):
        read_stream(chunks)
