"""Addresses of servers and keys for them, checked before anything is sent."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from proguard_edge.errors import EngineError


def server_address(url: str, like: str) -> SplitResult:
    """The parts of an http or https address with a host. `like`: how one is written.

    Raises EngineError for anything else, and for a name, password, query or fragment in it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise EngineError(f"{url!r} is no address of a server") from None
    odd = parts.username or parts.password or parts.query or parts.fragment
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or odd or not plain:
        raise EngineError(f"{url!r}: give the server as {like}")
    return parts


def bearer(key: str, name: str) -> str:
    """The Authorization header of an API key. Raises EngineError, which calls the key `name`."""
    if not (key.isascii() and key.isprintable()):
        raise EngineError(f"{name} holds characters that no API key has")
    return f"Bearer {key}"
