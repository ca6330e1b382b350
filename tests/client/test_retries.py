"""What is tried again, how often, and for how long."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

pytest.importorskip("httpx")

from scripted import VERDICT, Scripted, answer, ask, error

from proguard_edge.client import Client
from proguard_edge.errors import (
    AnswerError,
    BusyError,
    DeadlineError,
    ProGuardEdgeError,
    ServiceError,
)


def test_a_busy_server_is_asked_again_after_the_time_that_it_names(scripted: Scripted) -> None:
    scripted.script = [error(429, "BusyError", Retry_After="1"), answer(VERDICT)]
    begin = time.monotonic()
    assert not ask(scripted.url, retries=1).unsafe
    assert 1.0 <= time.monotonic() - begin < 10
    assert len(scripted.asked) == 2


@pytest.mark.parametrize("code", ["BusyError", "StartingError", "AuditError", "ServiceError", ""])
def test_what_may_pass_is_tried_as_often_as_said_and_no_more(scripted: Scripted, code: str) -> None:
    scripted.script = [error(503, code, Retry_After="0")]
    with pytest.raises(ServiceError):
        ask(scripted.url, retries=2)
    assert len(scripted.asked) == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "WorkerError"), (504, "DeadlineError"), (500, "EngineError"), (400, "ImageError"),
     (422, "LanguageError"), (401, "KeyError"), (500, "AnswerError")],
)  # fmt: skip
def test_what_would_happen_again_is_not_tried_again(
    scripted: Scripted, status: int, code: str
) -> None:
    scripted.script = [error(status, code, Retry_After="0")]
    with pytest.raises(ProGuardEdgeError):
        ask(scripted.url, retries=2)
    assert len(scripted.asked) == 1


def test_a_pause_that_would_last_longer_than_the_client_may_is_not_begun(
    scripted: Scripted,
) -> None:
    scripted.script = [error(429, "BusyError", Retry_After="3600")]
    begin = time.monotonic()
    with pytest.raises(BusyError) as caught:
        ask(scripted.url, retries=5, timeout=5)
    assert time.monotonic() - begin < 4
    assert caught.value.retry_after == 3600


@pytest.mark.parametrize("header", ["nan", "inf", "-1", "soon", "Wed, 21 Oct 2065 07:28 GMT", ""])
def test_a_retry_after_that_is_no_time_counts_as_a_second(scripted: Scripted, header: str) -> None:
    scripted.script = [error(429, "BusyError", Retry_After=header)]
    with pytest.raises(BusyError) as caught:
        ask(scripted.url)
    assert caught.value.retry_after == 1


def test_a_dropped_connection_is_tried_again(scripted: Scripted) -> None:
    scripted.script = [None, None, answer(VERDICT)]
    assert not ask(scripted.url, retries=2).unsafe


def test_a_slow_server_is_a_deadline_error_in_time(scripted: Scripted) -> None:
    scripted.before = lambda _: time.sleep(1.5)
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match=r"0\.3 s"):
        ask(scripted.url, timeout=0.3, retries=3)
    assert time.monotonic() - begin < 1.4


def test_a_server_that_drips_is_a_deadline_error_in_time(scripted: Scripted) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(40):
            connection.sendall(b" ")
            time.sleep(0.05)

    scripted.before = drip
    with pytest.raises(DeadlineError):
        ask(scripted.url, timeout=0.5)


def test_nobody_there_is_a_service_error_and_not_ready(scripted: Scripted) -> None:
    scripted.close()
    with pytest.raises(ServiceError, match="no answer"):
        ask(scripted.url, retries=1)
    with Client(scripted.url, timeout=2) as client:
        assert not client.ready()


@pytest.mark.parametrize(
    "said", [b"", b"<html>", b'{"ready": "yes"}', b'{"ready": 1}', b"[true]", b'{"ready": false}']
)
def test_ready_means_that_the_server_says_so(scripted: Scripted, said: bytes) -> None:
    scripted.script = [answer(said), answer(b'{"ready": true}'), answer(b'{"ready": true}', 503)]
    with Client(scripted.url) as client:
        assert [client.ready() for _ in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    "said",
    [{}, {"policies": []}, {"policies": None}, {"policies": [{"name": "a"}]}, {"policies": 1}],
)
def test_policies_that_are_none_are_an_answer_error(scripted: Scripted, said: Any) -> None:
    scripted.script = [answer(said)]
    with Client(scripted.url) as client, pytest.raises(AnswerError):
        client.policies()
