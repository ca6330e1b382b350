"""What no guard would take is refused before anything is sent."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

pytest.importorskip("httpx")

from scripted import Scripted, ask

from proguard_edge.client import AsyncClient, Client
from proguard_edge.errors import (
    EngineError,
    ImageError,
    InputError,
    LimitError,
    ProGuardEdgeError,
    TextError,
)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"user": "half \ud800 a pair"}, TextError),
        ({"response": "a NUL \x00"}, TextError),
        ({"user": "a" * 100_001}, LimitError),
        ({"user": b"bytes"}, InputError),
        ({"image": 7}, InputError),
        ({"image": b""}, ImageError),
        ({"image": "/nowhere.png"}, ImageError),
        ({"image": "/dev/zero"}, ImageError),
        ({"image": b"x" * (20 * 2**20 + 1)}, LimitError),
        ({"image": [b"x"] * 17}, LimitError),
    ],
    ids=[
        "surrogate",
        "nul",
        "long",
        "bytes",
        "number",
        "empty",
        "no file",
        "device",
        "large",
        "many",
    ],
)
def test_what_no_guard_would_take_is_not_sent(
    scripted: Scripted, fields: dict[str, Any], kind: type[ProGuardEdgeError]
) -> None:
    with pytest.raises(kind):
        ask(scripted.url, **{"user": "hello", **fields})
    assert not scripted.asked


def test_a_closed_client_says_so(scripted: Scripted) -> None:
    client = Client(scripted.url)
    client.close()
    client.close()
    with pytest.raises(EngineError, match="closed"):
        client.moderate("hello")

    async def ask_closed() -> None:
        other = AsyncClient(scripted.url)
        await other.close()
        await other.moderate("hello")

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(ask_closed())
    assert not scripted.asked


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://a", "http://", "http://a:b:c", "http://me:pw@a", "http://a?x=1",
     "file:///etc/passwd", "http://\u00e4", "http://a b"],
)  # fmt: skip
def test_what_is_no_address_is_an_error(url: str) -> None:
    with pytest.raises(EngineError):
        AsyncClient(url)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": math.nan}, {"retries": -1},
                                     {"api_key": "\u00e4"}, {"api_key": "a\nb"}])  # fmt: skip
def test_options_that_make_no_sense_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        AsyncClient("http://127.0.0.1:1", **options)
