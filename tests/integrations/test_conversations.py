"""Bodies of requests as what a guard judges: all that a model would read, or an error."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from proguard_edge.errors import ImageError, InputError
from proguard_edge.integrations.conversations import read_conversation
from proguard_edge.request import Request

PICTURE = b"\x89PNG"
URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def requests(last_turn_only: bool = False, trusted: tuple[str, ...] = (), **body: Any) -> Any:
    return read_conversation(body, trusted).requests(last_turn_only)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def agent(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def test_a_conversation_is_cut_into_turns_with_their_answers() -> None:
    messages = [user("a"), user("b"), agent("c"), agent("d"), user("e")]
    assert requests(messages=messages) == [Request("a\nb", "c\nd"), Request("e")]
    assert requests(messages=messages, last_turn_only=True) == [Request("e")]


def test_system_prompts_and_results_of_tools_are_requests_of_their_own() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    messages = [
        {"role": "system", "content": "s"},
        user("a"),
        agent(None, tool_calls=[call]),
        {"role": "tool", "tool_call_id": "1", "content": "t"},
        agent("b"),
    ]
    expected = [Request("s"), Request("t"), Request("a", 'look {"at": 1}\nb')]
    assert requests(messages=messages) == expected
    assert requests(messages=messages, trusted=("system", "tool")) == expected[2:]


def test_texts_and_pictures_of_a_message_stay_together() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": URL}}]
    assert requests(messages=[user(parts)]) == [Request("a", images=(PICTURE,))]
    assert requests(messages=[user(parts[1:]), agent("b")]) == [
        Request(None, "b", images=(PICTURE,))
    ]


def test_anthropic_s_layout_is_read() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": URL.partition(",")[2]}
    messages = [
        user([{"type": "text", "text": "a"}, {"type": "image", "source": source}]),
        agent(
            [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "tool_use", "id": "1", "name": "look", "input": {"at": 1}},
            ]
        ),
        user([{"type": "tool_result", "tool_use_id": "1", "content": "t"}]),
    ]
    found = requests(system=[{"type": "text", "text": "s"}], messages=messages)
    turn = Request("a", 'hm\nlook {"at": 1}', (PICTURE,))
    assert found == [Request("s"), Request("t"), turn]


def test_the_layout_of_responses_is_read() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "t"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "item_reference", "id": "msg_1"},
        {"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
    ]
    assert requests(instructions="s", input=items) == [
        Request("s"),
        Request("t"),
        Request("a", "hm\nlook {}\nb"),
        Request(images=(PICTURE,)),
    ]


def test_prompts_and_inputs_are_read_alone() -> None:
    assert requests(prompt="a") == requests(input="a") == [Request("a")]
    assert requests(input=["a", "b"]) == [Request("a"), Request("b")]


def test_what_is_said_in_descriptions_of_tools_and_formats_is_judged() -> None:
    tool = {"type": "function", "function": {"name": "look_at", "description": "Looks."}}
    schema = {"name": "person", "schema": {"type": "object", "properties": {"age": {}}}}
    body = {"tools": [tool], "response_format": {"type": "json_schema", "json_schema": schema}}
    found = requests(messages=[user("a")], **body)
    assert found == [Request("look at\nLooks."), Request("person\nage"), Request("a")]
    assert requests(messages=[user("a")], trusted=("tools",), **body) == [Request("a")]
    assert (
        requests(response_format={"type": "json_object"}, text={"format": {"type": "text"}}) == []
    )


def test_a_library_s_objects_are_read_as_what_they_hold() -> None:
    class Message:
        def model_dump(self) -> dict[str, Any]:
            return agent("b")

    assert requests(messages=[user("a"), Message()]) == [Request("a", "b")]


def test_what_is_empty_is_nothing() -> None:
    assert requests() == []
    assert requests(messages=[user(""), user(None), user([]), agent(None)]) == []
    assert requests(messages=[user("a"), agent("b")], input=None, last_turn_only=True) == [
        Request("a", "b")
    ]


UNREADABLE: dict[str, dict[str, Any]] = {
    "a file": {"messages": [user([{"type": "file", "file": {"file_id": "1"}}])]},
    "a sound": {"messages": [user([{"type": "input_audio", "input_audio": {"data": "AA"}}])]},
    "a film": {"messages": [user([{"type": "video_url", "video_url": {"url": URL}}])]},
    "a document": {"messages": [user([{"type": "document", "source": {"type": "text"}}])]},
    "no type": {"messages": [user([{"text": "a"}])]},
    "an odd type": {"messages": [user([{"type": ["text"], "text": "a"}])]},
    "no text": {"messages": [user([{"type": "text", "text": None}])]},
    "a number": {"messages": [user(7)]},
    "a list in a list": {"messages": [user([["a"]])]},
    "no role": {"messages": [{"content": "a"}]},
    "an odd role": {"messages": [{"role": ["user"], "content": "a"}]},
    "a text for a message": {"messages": ["a"]},
    "a text for messages": {"messages": "a"},
    "an object for messages": {"messages": {"0": user("a")}},
    "an answer in sound": {"messages": [agent(None, audio={"id": "1"})]},
    "a call that is none": {"messages": [agent(None, tool_calls=["look"])]},
    "a call of nothing": {"messages": [agent(None, tool_calls=[{"function": "look"}])]},
    "tokens": {"input": [1, 2]},
    "lists of tokens": {"prompt": [[1, 2]]},
    "an item of another kind": {"input": [{"type": "computer_call", "action": {}}]},
    "a number for a prompt": {"prompt": 7},
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_an_error(case: str) -> None:
    with pytest.raises(InputError, match="cannot be judged"):
        requests(**UNREADABLE[case])


ADDRESSES: list[Any] = [
    *("https://example.org/a.png", "file:///etc/passwd", "data:image/png,abc", "", None, 7),
    *("data:image/png;base64", "DATA:image/png;base64,%%%", {"url": "http://a"}),
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("layout", ["chat", "responses", "anthropic"])
def test_a_picture_that_is_elsewhere_is_an_error(address: Any, layout: str) -> None:
    part = {
        "chat": {"type": "image_url", "image_url": {"url": address}},
        "responses": {"type": "input_image", "image_url": address},
        "anthropic": {"type": "image", "source": {"type": "url", "url": address}},
    }[layout]
    with pytest.raises(ImageError):
        requests(messages=[user([part])])
