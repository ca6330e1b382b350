"""Public sets with pictures: how one record of each becomes the fields of a Row.

The functions return what those of `text_sets` return and raise the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proguard_edge.policy import Policy
from proguard_edge.train.rows import Row
from proguard_edge.train.sources import categories
from proguard_edge.train.sources.categories import mapped
from proguard_edge.train.sources.fields import SAFE_UNSAFE, label, required_text, text
from proguard_edge.train.sources.files import Record
from proguard_edge.train.sources.pictures import Pictures

Fields = dict[str, Any]
Turns = list[tuple[str, str]]

_SPEAKERS = {"user": "User", "human": "User", "assistant": "Agent", "gpt": "Agent"}
_NO_CATEGORY = {"", "none", "null", "na", "n/a", "safe"}
_ID = re.compile(r"C\d+(?:S\d+)?")


def proguard(record: Record, pictures: Pictures) -> Fields:
    """ProGuard-data (arXiv 2512.23573): `modality`, `message`, labels, `category`, `images`.

    `message` is a JSON list of {role, content}. One user turn, perhaps with one answer, is taken
    as it is; of a longer conversation the last answer is the response, and all before it becomes
    one text of "User: …" and "Agent: …" lines. A picture alone has no text: what `message` holds
    for modality "image" never reaches the model, so it is not kept.
    """
    modality = label(record, "modality", {m: m for m in ("text", "image", "text-image")})
    image = pictures.one(record.get("images"))
    if (modality == "text") != (image is None):
        raise ValueError(f"modality is {modality}, but there is {'a' if image else 'no'} picture")
    user, response = (None, None) if modality == "image" else _conversation(record["message"])
    if modality != "image" and user is None:
        raise ValueError("message holds no user turn")
    category, named = _policy_category(text(record, "category"))
    return {
        "user": user,
        "response": response,
        "image": image,
        "request_label": label(record, "query_label", {**SAFE_UNSAFE, "none": None}),
        "response_label": label(record, "response_label", {**SAFE_UNSAFE, "none": None})
        if response
        else None,
        "category": category,
        "source_category": named,
    }


def llavaguard(record: Record, pictures: Pictures) -> Fields:
    """LlavaGuard (arXiv 2406.05113): `image` or `url`, `rating`, `category` ("O3: Sexual …").

    `url` counts as the name of a picture that was downloaded into the data's folder.
    """
    given = record["image"] if record.get("image") else record["url"]
    rating = label(record, "rating", SAFE_UNSAFE)
    named = required_text(record, "category")
    code = named.split(":")[0]
    return {
        "image": pictures.get(given),
        "request_label": rating,
        "category": mapped([code], categories.LLAVAGUARD) if rating == "unsafe" else None,
        "source_category": named,
    }


def without_other_policies(rows: Iterator[Row]) -> Iterator[Row]:
    """LlavaGuard rates some pictures twice: the second time under a policy rewritten to allow them.

    Where a picture is rated both ways, only "unsafe" holds under ours: "safe" becomes unlabelled.
    """
    kept = list(rows)
    unsafe = {row.image for row in kept if row.request_label == "unsafe"}
    for row in kept:
        twice = row.request_label == "safe" and row.image in unsafe
        yield replace(row, request_label=None) if twice else row


def beavertails_v(record: Record, pictures: Pictures) -> Fields:
    """BeaverTails-V (arXiv 2503.17682): `question`, `image`, `response`, `is_response_safe`.

    `is_response_safe` ("yes"/"no") is about the response; the request has no label.
    """
    named = text(record, "category")
    verdict = label(record, "is_response_safe", {"yes": "safe", "no": "unsafe"})
    unsafe = verdict == "unsafe" and named is not None
    return {
        "user": required_text(record, "question"),
        "response": required_text(record, "response"),
        "image": pictures.get(record["image"]),
        "response_label": verdict,
        "category": mapped([named or ""], categories.BEAVERTAILS_V) if unsafe else None,
        "source_category": named,
    }


def _conversation(message: Any) -> tuple[str | None, str | None]:
    """User text and response of a list of turns, or of that list as JSON. Raises ValueError."""
    if isinstance(message, str):
        try:
            message = json.loads(message)
        except ValueError:
            raise ValueError("message is not JSON") from None
    if not isinstance(message, list):
        raise ValueError("message is not a list of turns")
    turns = [turn for turn in map(_turn, message) if turn[1]]
    response = turns.pop()[1] if turns and turns[-1][0] == "Agent" else None
    if len(turns) == 1 and turns[0][0] == "User":
        return turns[0][1], response
    return "\n".join(f"{speaker}: {said}" for speaker, said in turns) or None, response


def _turn(raw: Any) -> tuple[str, str]:
    """Speaker and text of one turn, without the marks that stand for a picture."""
    role = str(raw.get("role", "")).lower() if isinstance(raw, dict) else ""
    if role not in _SPEAKERS:
        raise ValueError("message holds a turn that is neither the user's nor the assistant's")
    content = raw.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise ValueError(f"a turn's content is not a text but {type(content).__name__}")
    return _SPEAKERS[role], content.replace("<image>", "").strip()


def _policy_category(named: str | None) -> tuple[str | None, str | None]:
    """Id in the default policy and the source's own word, of an id, "id: name" or a name."""
    if named is None or named.strip().lower() in _NO_CATEGORY:
        return None, None
    policy = Policy.default()
    if found := _ID.match(named.strip()):
        if found[0] not in policy.ids:
            raise ValueError(f"category {named!r:.40} is not in the policy")
        return found[0], named
    wanted = categories.key(named)
    return next((c.id for c in policy.categories if categories.key(c.name) == wanted), None), named
