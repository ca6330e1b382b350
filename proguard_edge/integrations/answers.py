"""Answers of language models, whole or streamed, as what a guard judges.

Layouts: OpenAI's chat, text completions and responses, Anthropic's messages. A stream is put
together before it is read, because what is released cannot be taken back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proguard_edge.errors import InputError
from proguard_edge.integrations.conversations import (
    Conversation,
    Part,
    image_of,
    plain,
    read_item,
    read_said,
)

# Events of a Responses stream that carry the whole answer.
_WHOLE = ("response.completed", "response.incomplete", "response.failed")
# Blocks of an Anthropic stream.
_BLOCKS = ("text", "thinking", "tool_use", "server_tool_use")


def read_answers(response: Any) -> list[Part]:
    """What an answer holds: one part for each choice, none where there is nothing to read.

    Raises InputError for a layout that is none of the known ones, and for content of another kind.
    """
    raw = plain(response)
    if not isinstance(raw, Mapping):
        raise InputError(f"an answer of type {type(response).__name__} cannot be judged")
    if isinstance(raw.get("choices"), list):
        return [_read_choice(choice) for choice in raw["choices"]]
    if isinstance(raw.get("output"), list):
        found = Conversation()
        for item in raw["output"]:
            read_item(found, item)
        return [turn.answer for turn in found.turns]
    if raw.get("type") == "message":
        return [read_said(raw)]
    if isinstance(raw.get("data"), list):
        return [_read_datum(datum) for datum in raw["data"]]
    raise InputError(f"an answer of type {type(response).__name__} cannot be judged")


def _read_choice(choice: Any) -> Part:
    """Of chat (`message`, or `delta` in a stream), or of text completions (`text`)."""
    if not isinstance(choice, Mapping):
        raise InputError("a choice that is no object cannot be judged")
    said = choice.get("message") or choice.get("delta")
    return read_said(said if isinstance(said, Mapping) else choice)


def _read_datum(datum: Any) -> Part:
    """An embedding, which nobody reads, or a picture."""
    if isinstance(datum, Mapping) and "embedding" in datum:
        return Part()
    if isinstance(datum, Mapping) and datum.get("b64_json"):
        return Part(images=[image_of(f"data:;base64,{datum['b64_json']}")])
    return Part(images=[image_of(datum.get("url") if isinstance(datum, Mapping) else None)])


def read_stream(chunks: Sequence[Any]) -> list[Part]:
    """What the chunks of a stream amount to. Raises InputError for chunks of no known layout."""
    if not chunks:
        return []
    if any(isinstance(chunk, bytes | str) for chunk in chunks):
        return _read_events(list(_server_sent(chunks)))
    plain_chunks = [plain(chunk) for chunk in chunks]
    if not all(isinstance(chunk, Mapping) for chunk in plain_chunks):
        raise InputError("a stream of unknown chunks cannot be judged")
    if all("choices" in chunk for chunk in plain_chunks):
        whole: dict[str, Any] = {}
        for chunk in plain_chunks:
            _fold(whole, {"choices": chunk["choices"] or []})
        return read_answers(whole)
    return _read_events(plain_chunks)


def _server_sent(chunks: Sequence[bytes | str]) -> Iterator[Mapping[str, Any]]:
    """The events of a raw event stream."""
    raw = b"".join(chunk if isinstance(chunk, bytes) else chunk.encode() for chunk in chunks)
    for line in raw.decode("utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "data" and value.strip() != "[DONE]":
            try:
                event = json.loads(value)
            except ValueError:
                raise InputError("a stream with a damaged event cannot be judged") from None
            yield event


def _read_events(events: Sequence[Any]) -> list[Part]:
    """Of Anthropic's messages (blocks and their deltas) or of Responses (deltas and the whole)."""
    blocks: dict[str, Any] = {"blocks": []}
    said: dict[tuple[Any, ...], str] = {}
    whole: list[str] = []
    part = Part()
    for event in events:
        kind = event.get("type") if isinstance(event, Mapping) else None
        if not isinstance(kind, str):
            raise InputError("a stream of events without a type cannot be judged")
        if kind in ("content_block_start", "content_block_delta"):
            block = event.get("content_block") or event.get("delta") or {}
            if kind == "content_block_start" and block.get("type") not in _BLOCKS:
                raise InputError(f"a part of type {block.get('type')!r:.40} cannot be judged")
            _fold(blocks, {"blocks": [{**block, "index": event.get("index", 0)}]})
        elif kind in _WHOLE:
            for found in read_answers(event.get("response")):
                part.add(found)
        elif "audio" in kind or "image" in kind:
            raise InputError(f"a stream with {kind:.40} cannot be judged")
        elif isinstance(event.get("delta"), str):
            key = (kind, event.get("output_index"), event.get("content_index"))
            said[key] = said.get(key, "") + event["delta"]
    for block in blocks["blocks"]:
        whole += [block[k] for k in ("text", "thinking", "partial_json") if block.get(k)]
    # The whole repeats the deltas, or should.
    whole += [text for text in said.values() if text not in part.texts]
    part.texts += whole
    return [part]


def _fold(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Append a piece: texts are joined, objects merged, lists merged by their `index`."""
    for name, value in piece.items():
        if isinstance(value, str) and isinstance(whole.get(name), str):
            whole[name] += value
        elif isinstance(value, Mapping):
            _fold(whole.setdefault(name, {}), value)
        elif isinstance(value, list):
            _fold_list(whole.setdefault(name, []), value)
        elif value is not None:
            whole[name] = value


def _fold_list(whole: list[Any], pieces: list[Any]) -> None:
    for position, piece in enumerate(map(plain, pieces)):
        if not isinstance(piece, Mapping):
            whole.append(piece)
            continue
        index = piece.get("index", position)
        known = next((each for each in whole if each.get("index") == index), None)
        if known is None:
            known = {"index": index}
            whole.append(known)
        _fold(known, {name: value for name, value in piece.items() if name != "index"})
