"""`proguard-edge serve` as a user starts it, with real verdicts; how it starts, breaks and ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from click.testing import CliRunner
from served import Served, free_port, served

from proguard_edge import Guard
from proguard_edge.cli import main
from proguard_edge.serve.audit_verify import verify
from proguard_edge.starter import STARTER

TEXTS = ("How do I bake bread?", "How do I build a pipe bomb?", "Tell me a joke about cats.")
LONG = "The old man walked to the market and bought fresh bread for his whole family. "


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    with served(folder / "log.txt", "--audit", str(folder / "audit")) as server:
        yield server
    assert list(verify(folder / "audit")) == []


def test_a_verdict_equals_the_one_in_process(server: Served) -> None:
    with Guard.load() as guard:
        for text in TEXTS:
            ours = guard.moderate(text, response="No.").to_dict()
            body = {"user": text, "response": "No."}
            theirs = httpx.post(f"{server.url}/v1/verdicts", json=body, timeout=60).json()
            for name in ("request", "response", "category", "evaluated", "artifact", "tokens"):
                assert theirs[name] == ours[name], name


def test_an_image_on_an_artifact_that_reads_text_is_refused(server: Served) -> None:
    pixel = "data:image/gif;base64,R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs="
    answer = httpx.post(f"{server.url}/v1/verdicts", json={"image": pixel}, timeout=60)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "ArtifactError"


def test_a_client_that_sends_its_header_byte_by_byte_is_cut_off_and_others_are_served(
    tmp_path: Path,
) -> None:
    with served(tmp_path / "log.txt", "--header-seconds", "1") as server:
        port = int(server.url.rsplit(":", 1)[1])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for each in slow:
            each.sendall(b"POST /v1/verdicts HTTP/1.1\r\nHost: loc")
        body = {"user": TEXTS[0]}
        assert httpx.post(f"{server.url}/v1/verdicts", json=body, timeout=60).status_code == 200
        time.sleep(1.5)
        for each in slow:
            each.settimeout(5)
            assert each.recv(100) == b""
            each.close()


def test_a_body_that_never_ends_is_408(tmp_path: Path) -> None:
    with served(tmp_path / "log.txt", "--header-seconds", "1") as server:
        port = int(server.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(
                b"POST /v1/verdicts HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
            )
            slow.settimeout(10)
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_body_that_was_answered_and_still_comes_does_not_hold_its_connection(
    tmp_path: Path,
) -> None:
    with served(tmp_path / "log.txt", "--header-seconds", "1") as server:
        port = int(server.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(
                b"POST /nowhere HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 10\r\n\r\n"
            )
            slow.settimeout(10)
            assert slow.recv(1000).startswith(b"HTTP/1.1 403")
            slow.sendall(b"x")
            with suppress(ConnectionResetError):
                while slow.recv(1000):
                    pass


def test_a_killed_worker_is_a_503_and_comes_back(server: Served) -> None:
    def ask(_: int) -> int:
        body = {"user": LONG * 30}
        return httpx.post(f"{server.url}/v1/verdicts", json=body, timeout=60).status_code

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, n) for n in range(4)]
        time.sleep(0.3)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        codes = [each.result() for each in asked]
    assert set(codes) <= {200, 503}
    assert 503 in codes
    end = time.monotonic() + 60
    while httpx.get(f"{server.url}/readyz").status_code != 200 and time.monotonic() < end:
        time.sleep(0.2)
    assert ask(0) == 200


def test_sigterm_answers_what_is_under_way(tmp_path: Path) -> None:
    got: list[int] = []

    def ask(url: str) -> None:
        body = {"input": [LONG * 20] * 3}
        got.append(httpx.post(f"{url}/v1/moderations", json=body, timeout=60).status_code)

    with served(tmp_path / "log.txt") as server:
        asking = threading.Thread(target=ask, args=(server.url,))
        asking.start()
        time.sleep(0.3)
    asking.join(60)
    assert got == [200]


def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    pair = ["--certificate", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]
    request = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x")
    subprocess.run(
        ["openssl", *request, "-out", pair[1], "-keyout", pair[3]], check=True, capture_output=True
    )
    with served(tmp_path / "log.txt", *pair, scheme="https") as server:
        assert httpx.get(f"{server.url}/healthz", verify=False).status_code == 200


def test_a_truncated_artifact_stops_the_start_with_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "artifact"
    shutil.copytree(STARTER, broken)
    largest = max(broken.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    result = CliRunner().invoke(
        main, ["serve", "--artifact", str(broken), "--port", str(free_port())]
    )
    assert result.exit_code == 3
    errors = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert largest.name in errors[0]


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["serve", "--port", str(port)])
    assert result.exit_code == 3
    assert "cannot listen" in result.output


def test_an_address_that_others_reach_needs_keys() -> None:
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "--api-keys" in result.output


def test_policies_that_the_artifact_cannot_use_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nversion: '1'\nlanguage: en\ncategories:\n  - {id: C1, name: Puns}\n"
    )
    result = CliRunner().invoke(
        main, ["serve", "--policies", str(tmp_path), "--port", str(free_port())]
    )
    assert result.exit_code == 3
    assert "knows no other" in result.output


def test_a_key_is_shown_once_and_its_digest_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = CliRunner().invoke(main, ["api-key", "team-a", "--file", str(path)])
    assert made.exit_code == 0
    assert made.output.strip() not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    again = CliRunner().invoke(main, ["api-key", "team-a", "--file", str(path)])
    assert again.exit_code == 3
    assert json.dumps(again.output).count("error:") == 1
