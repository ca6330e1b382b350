"""Requests to language models, in the layouts of OpenAI and Anthropic, as requests to a guard.

A conversation is cut into turns: what the user wrote since the last answer, with its pictures, and
the agent's answer to it. System prompts, results of tools and descriptions of tools are requests of
their own: they are not the user's words, and would drown them. Whatever cannot be read (a file, a
sound, an address of a picture) is an InputError: what nobody looked at is not "safe".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proguard_edge.errors import ImageError, InputError
from proguard_edge.request import Request

# What the layouts call a piece of text, and under which key it stands.
_TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
# Words of schemas, which a guard takes for bad English, or for German.
_SCHEMA = frozenset(
    (
        *("type", "function", "name", "description", "parameters", "properties", "required"),
        *("items", "enum", "strict", "object", "string", "integer", "number", "boolean", "array"),
        *("null", "additionalProperties", "json_schema", "schema", "input_schema", "format"),
        *("anyOf", "oneOf", "allOf", "default", "title", "const", "pattern", "minimum", "maximum"),
    )
)


@dataclass
class Part:
    """What one author wrote: texts, and pictures as encoded bytes."""

    texts: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)

    def add(self, other: Part) -> None:
        """Append what another part holds."""
        self.texts += other.texts
        self.images += other.images

    @property
    def text(self) -> str | None:
        """All texts, a line break between them; None where there is nothing to read."""
        whole = "\n".join(text for text in self.texts if text.strip())
        return whole or None

    def requests(self) -> Iterator[Request]:
        """The part as a request of its own; none where it is empty."""
        if self.text is not None or self.images:
            yield Request(self.text, images=tuple(self.images))


@dataclass
class Turn:
    """What the user wrote, and what was answered."""

    user: Part = field(default_factory=Part)
    answer: Part = field(default_factory=Part)

    def requests(self) -> Iterator[Request]:
        """The turn as requests: pictures of an answer are one of their own."""
        yield from Part(images=self.answer.images).requests()
        response = self.answer.text
        if self.user.text is not None or self.user.images or response is not None:
            yield Request(self.user.text, response, tuple(self.user.images))


@dataclass
class Conversation:
    """turns: in order. others: what is judged alone. `trusted`: roles that are not judged."""

    trusted: frozenset[str] = frozenset()
    turns: list[Turn] = field(default_factory=list)
    others: list[Part] = field(default_factory=list)

    def requests(self, last_turn_only: bool = False) -> list[Request]:
        """What is to be judged. last_turn_only: without the turns before the last one."""
        turns = self.turns[-1:] if last_turn_only else self.turns
        parts = [request for part in self.others for request in part.requests()]
        return [*parts, *(request for turn in turns for request in turn.requests())]

    def say(self, role: str, part: Part) -> None:
        """Append what somebody with that role said."""
        if role in self.trusted or not (part.texts or part.images):
            return
        if role == "assistant":
            if not self.turns:
                self.turns.append(Turn())
            self.turns[-1].answer.add(part)
        elif role == "user":
            last = self.turns[-1] if self.turns else None
            if last is None or last.answer.texts or last.answer.images:
                self.turns.append(Turn())
            self.turns[-1].user.add(part)
        else:
            self.others.append(part)


def read_conversation(data: Mapping[str, Any], trusted: Iterable[str] = ()) -> Conversation:
    """The conversation in a request's body, whichever of the layouts it has.

    trusted: roles whose words the caller vouches for; "tools" stands for descriptions of tools and
    of formats. Raises InputError for what cannot be read.
    """
    found = Conversation(frozenset(trusted))
    for name in ("system", "instructions"):
        found.say("system", read_content(data.get(name)))
    for setting in _settings(data):
        found.say("tools", Part(["\n".join(dict.fromkeys(_words(setting))).replace("_", " ")]))
    for message in _list(data.get("messages"), "messages"):
        _read_message(found, plain(message))
    for name in ("input", "prompt"):
        _read_input(found, data.get(name))
    return found


def _settings(data: Mapping[str, Any]) -> Iterator[Any]:
    """What a model reads beside the conversation."""
    text = data.get("text")
    formats = (data.get("response_format"), text.get("format") if isinstance(text, dict) else None)
    for setting in (data.get("tools"), data.get("functions"), data.get("prediction"), *formats):
        # A format that only has a type, such as {"type": "json_object"}, says nothing.
        if setting and not (isinstance(setting, Mapping) and set(setting) == {"type"}):
            yield setting


def _words(setting: Any) -> Iterator[str]:
    """The names and descriptions in a schema, without the words that are in every schema."""
    if isinstance(setting, Mapping):
        for name, value in setting.items():
            yield from () if name in _SCHEMA else (str(name),)
            yield from _words(value)
    elif isinstance(setting, list | tuple):
        for value in setting:
            yield from _words(value)
    elif isinstance(setting, str) and setting not in _SCHEMA:
        yield setting


def plain(value: Any) -> Any:
    """A library's object as plain data; anything else as it is."""
    return value.model_dump() if hasattr(value, "model_dump") else value


def _read_input(found: Conversation, given: Any) -> None:
    """A text, a list of texts (each on its own), or the items of a Responses request."""
    if given is None or isinstance(given, str):
        found.say("user", read_content(given))
        return
    for item in _list(given, "input"):
        if isinstance(item, str):
            if "user" not in found.trusted:
                found.others.append(Part([item]))
        elif isinstance(item := plain(item), Mapping):
            read_item(found, item)
        else:
            raise InputError("an input of token ids cannot be judged; send it as text")


def read_item(found: Conversation, item: Mapping[str, Any]) -> None:
    """Append an item of a Responses request or answer. Raises InputError for other kinds."""
    kind = item.get("type", "message")
    if kind == "message":
        _read_message(found, item)
    elif kind in ("function_call", "custom_tool_call", "reasoning"):
        found.say("assistant", read_said(item))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        found.say("tool", read_content(item.get("output")))
    # What it refers to was judged when it was sent.
    elif kind != "item_reference":
        raise InputError(f"an item of type {kind!r:.40} cannot be judged")


def _read_message(found: Conversation, message: Any) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError("a message without a role cannot be judged")
    role, content = message["role"], message.get("content")
    if role == "assistant":
        found.say(role, read_said(message))
        return
    # Anthropic's results of tools stand among the user's words.
    own = []
    for block in content if isinstance(content, list) else [content]:
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            found.say("tool", read_content(block.get("content")))
        else:
            own.append(block)
    found.say(role, read_content(own))


def read_said(message: Mapping[str, Any]) -> Part:
    """What an agent said in a message, an item or a block: its words, thoughts, calls of tools."""
    part = read_content(message.get("content"))
    for name in ("refusal", "reasoning_content", "reasoning", "thinking", "text"):
        if isinstance(message.get(name), str):
            part.texts.append(message[name])
    part.add(read_content(message.get("summary")))
    calls = [*_list(message.get("tool_calls"), "tool_calls"), message.get("function_call")]
    for call in (message, *filter(None, calls)):
        part.texts += _called(call)
    for image in _list(message.get("images"), "images"):
        part.add(read_content([image]))
    if message.get("audio"):
        raise InputError("an answer in sound cannot be judged")
    return part


def _called(call: Any) -> Iterator[str]:
    """The name and the arguments of a call, as far as it is one."""
    if not isinstance(call, Mapping):
        raise InputError("a call of a tool that is no object cannot be judged")
    function: Any = call.get("function") or call.get("custom") or call
    if not isinstance(function, Mapping):
        raise InputError("a call of a tool that is no object cannot be judged")
    arguments = function.get("arguments", function.get("input"))
    if arguments:
        name = function.get("name") or ""
        yield f"{name} {arguments if isinstance(arguments, str) else _as_json(arguments)}".strip()


def read_content(content: Any) -> Part:
    """The content of a message: nothing, a text, or parts. Raises InputError, ImageError."""
    part = Part()
    for block in [content] if isinstance(content, str | Mapping) else _list(content, "content"):
        if block is None:
            continue
        if isinstance(block, str):
            part.texts.append(block)
        elif isinstance(block, Mapping):
            _read_block(part, block)
        else:
            raise InputError("a part that is neither text nor object cannot be judged")
    return part


def _read_block(part: Part, block: Mapping[str, Any]) -> None:
    kind = block.get("type")
    if not isinstance(kind, str):
        raise InputError("a part without a type cannot be judged")
    if kind in _TEXTS:
        text = block.get(_TEXTS[kind])
        if not isinstance(text, str):
            raise InputError(f"a part of type {kind!r} without text cannot be judged")
        part.texts.append(text)
    elif kind in ("image_url", "input_image"):
        url = block.get("image_url")
        part.images.append(image_of(url.get("url") if isinstance(url, Mapping) else url))
    elif kind == "image":
        source = block.get("source")
        if not isinstance(source, Mapping) or source.get("type") != "base64":
            source = {"data": image_of(None)}
        part.images.append(_decoded(source.get("data")))
    elif kind in ("tool_use", "server_tool_use"):
        part.texts += _called(block)
    elif kind == "tool_result":
        part.add(read_content(block.get("content")))
    else:
        raise InputError(f"a part of type {kind!r:.40} cannot be judged")


def image_of(url: Any) -> bytes:
    """The picture in a data URL. Raises ImageError for an address: nothing is ever fetched."""
    head, comma, encoded = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (head[:5].lower() == "data:" and head.endswith(";base64") and comma):
        raise ImageError(
            "an image that is only referred to cannot be judged, nothing is fetched; send it as a "
            "data URL (data:image/png;base64,…)"
        )
    return _decoded(encoded)


def _decoded(encoded: Any) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ImageError("an image holds no valid base64") from None


def _list(values: Any, name: str) -> list[Any]:
    if values is None:
        return []
    if not isinstance(values, list | tuple):
        raise InputError(f"{name} is no list and cannot be judged")
    return list(values)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
