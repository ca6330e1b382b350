"""JSON from a server, read so that it means one thing only."""

from __future__ import annotations

import json
from typing import Any


def json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object without NaN, infinities or a key twice.

    Raises ValueError, whose message goes on behind "the answer is".
    """
    try:
        answer = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_without_twins
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(answer, dict):
        raise ValueError("not a JSON object")
    return answer


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found
