"""The helper may die, hang or fail; what it did with sockets is known all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_jobs import connect, connect_and_fail, die, double, fail, hang, native, refuse

from proguard_edge.doctor.helper import Helper
from proguard_edge.doctor.sockets import PERIOD_S, SocketWatch, open_sockets, own_sockets
from proguard_edge.errors import EngineError, WorkerError


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.close()


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_it_runs_may_print_and_the_report_stays_clean(helper, capfd):
    assert helper.run(double, 21, 60) == 42
    assert "report" not in capfd.readouterr().out


def test_an_error_comes_back_and_the_process_goes_on(helper):
    with pytest.raises(EngineError, match="the decoder failed"):
        helper.run(refuse, None, 60)
    with pytest.raises(EngineError, match="unexpected ZeroDivisionError: of all things"):
        helper.run(fail, None, 60)
    assert (helper.run(double, 1, 60), helper.deaths) == (2, 0)


def test_after_a_death_another_process_takes_over(helper):
    with pytest.raises(WorkerError, match=r"died \(SIGILL\)"):
        helper.run(die, None, 60)
    assert (helper.run(double, 1, 60), helper.deaths) == (2, 1)


def test_what_never_ends_is_ended(helper):
    helper.run(double, 1, 60)
    with pytest.raises(WorkerError, match=r"longer than 0\.3 s"):
        helper.run(hang, None, 0.3)
    assert helper.run(double, 1, 60) == 2


def test_every_socket_that_it_used_is_told_also_when_it_failed_afterwards(port):
    helper = Helper()
    try:
        helper.run(double, 1, 60)
        assert helper.sockets() == []
        helper.run(connect, port, 60)
        with pytest.raises(EngineError):
            helper.run(connect_and_fail, port, 60)
        assert helper.sockets() == [f"socket.connect ('127.0.0.1', {port})"] * 2
    finally:
        helper.close()


def test_a_socket_of_a_native_library_is_seen_while_it_is_open_and_told_afterwards():
    if not Path("/proc/self/net/udp").exists():
        pytest.skip("this system does not tell")
    helper = Helper()
    try:
        helper.run(native, 10 * PERIOD_S, 60)
        assert helper.sockets() == ["udp socket open"]
    finally:
        helper.close()


def test_a_watch_tells_once_of_what_was_used_since_it_began(port):
    connect(port)
    watch = SocketWatch()
    assert watch.take() == ()
    connect(port)
    with pytest.raises(OSError, match=r"."):
        socket.getaddrinfo("example.invalid", 80)
    first, second = watch.take()
    assert first == f"socket.connect ('127.0.0.1', {port})"
    assert second.startswith("socket.getaddrinfo 'example.invalid' 80")
    assert watch.take() == ()


def test_a_socket_file_of_this_machine_reaches_nobody(tmp_path):
    watch = SocketWatch()
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(str(tmp_path / "here"))
    assert watch.take() == ()


def test_a_socket_that_is_open_is_seen_whoever_opened_it():
    if not Path("/proc/self/net/udp").exists():
        pytest.skip("this system does not tell")
    before = open_sockets(own_sockets())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.bind(("127.0.0.1", 0))
        new = open_sockets(own_sockets()).items() - before.items()
        assert [protocol for _, protocol in new] == ["udp"]
    assert open_sockets(own_sockets()) == before
