"""A server that breaks, refuses or redirects: the right error, and content goes nowhere else."""

from __future__ import annotations

import socket
from typing import Any

import pytest

pytest.importorskip("httpx")

from scripted import VERDICT, Scripted, answer, ask, error

import proguard_edge.errors as errors
from proguard_edge.errors import (
    BusyError,
    EngineError,
    InputError,
    ProGuardEdgeError,
    ServiceError,
)

ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ProGuardEdgeError)
]


BROKEN: dict[str, bytes | None] = {
    "dropped": None,
    "dropped in the body": answer(VERDICT, Content_Length="9999") + b"",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n{}",
    "a cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_connection_that_breaks_is_a_service_error(scripted: Scripted, case: str) -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.sendall(BROKEN[case] or b"")
        connection.shutdown(socket.SHUT_RDWR)

    scripted.before, scripted.script = hang_up, [None]
    with pytest.raises(ServiceError, match="no answer"):
        ask(scripted.url)


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_come_back_as_the_class_that_the_server_names(
    scripted: Scripted, kind: type[ProGuardEdgeError]
) -> None:
    scripted.script = [error(500, kind.__name__, "why\nand more", Retry_After="7")]
    with pytest.raises(ProGuardEdgeError, match="why and more") as caught:
        ask(scripted.url)
    assert type(caught.value) is kind
    if isinstance(caught.value, ServiceError):
        assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InputError), (401, EngineError), (403, EngineError), (404, EngineError),
        (408, ServiceError), (413, InputError), (422, InputError), (429, BusyError),
        (500, EngineError), (502, ServiceError), (503, ServiceError), (504, ServiceError),
        (201, EngineError), (204, EngineError), (301, EngineError), (307, EngineError),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Bad Gateway",
        {"error": "no"},
        {"error": {"code": "KeyError", "message": "no"}},
        VERDICT,
    ],
    ids=["nothing", "text", "odd", "unknown", "verdict"],
)
def test_a_status_without_a_class_of_ours_is_an_error_that_fits_it(
    scripted: Scripted, status: int, expected: type[ProGuardEdgeError], content: Any
) -> None:
    scripted.script = [answer(b"" if status == 204 else content, status)]
    with pytest.raises(expected) as caught:
        ask(scripted.url)
    assert type(caught.value) is expected


@pytest.mark.parametrize("code", ["annotations", "__name__", "Exception", "os", "a b", ""])
def test_a_code_that_is_no_error_of_ours_makes_no_other_class(
    scripted: Scripted, code: str
) -> None:
    scripted.script = [error(500, code)]
    with pytest.raises(EngineError):
        ask(scripted.url)


def test_a_redirect_is_not_followed(scripted: Scripted) -> None:
    other = Scripted()
    scripted.script = [answer(b"", 307, Location=f"{other.url}/v1/verdicts")]
    with pytest.raises(EngineError, match="redirect"):
        ask(scripted.url)
    assert not other.asked
    other.close()


def test_no_proxy_of_the_environment_gets_the_content(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Scripted()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert not ask(scripted.url).unsafe
    assert not proxy.asked
    proxy.close()


def test_the_key_goes_in_the_header_and_nowhere_else(scripted: Scripted) -> None:
    ask(scripted.url, api_key="secret-1")
    (asked,) = scripted.asked
    assert asked.headers["authorization"] == "Bearer secret-1"
    assert b"secret-1" not in asked.body
    assert "secret" not in asked.line
