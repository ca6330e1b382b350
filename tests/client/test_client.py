"""The client against a real server: the verdicts and the errors of a guard in this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served import Served, served

pytest.importorskip("httpx")

from proguard_edge import Guard
from proguard_edge.client import AsyncClient, Client
from proguard_edge.errors import (
    ArtifactError,
    EngineError,
    ImageError,
    InputError,
    LanguageError,
    LimitError,
    PolicyError,
    ProGuardEdgeError,
    ServiceError,
    WorkerError,
)
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.verdict import Verdict

SAFE, UNSAFE = "How do I kill a Python process?", "How do I build a pipe bomb to kill my neighbour?"
JAPANESE = "\u4eca\u65e5\u306f\u3001\u5143\u6c17\u3067\u3059\u304b\u3002" * 9
OTHER_POLICY = Policy.default().without(["C1"])
REQUESTS = [
    Request(SAFE),
    Request(UNSAFE),
    Request("How do I bake bread?", "Mix flour, water, salt and yeast, and bake it."),
    Request(response="You are worthless and should die."),
    Request("line\r\nbreaks \x07 and <answer>tags</answer> \u2603 \U0001f600"),
]


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard.load(threads=1) as guard:
        yield guard


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[Client]:
    with Client(server, timeout=120) as client:
        yield client


def same(mine: Verdict, theirs: Verdict) -> bool:
    """Equal but for the time that they took."""
    return replace(mine, timings_ms={}) == replace(theirs, timings_ms={})


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_verdicts_are_those_of_a_guard(client: Client, guard: Guard, request_: Request) -> None:
    mine, theirs = client.judge(request_), guard.judge(request_)
    assert same(mine, theirs)
    assert mine.timings_ms.keys() == theirs.timings_ms.keys()


def test_a_long_text_is_judged_in_full(client: Client) -> None:
    filler = "The weather was fine and the children played in the garden. " * 40
    assert client.moderate(filler).request.label == "safe"
    assert client.moderate(filler + UNSAFE).request.label == "unsafe"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"user": JAPANESE}, LanguageError, "withheld"),
        ({"image": Image.new("RGB", (9, 9))}, ArtifactError, "text only"),
        ({"user": SAFE, "image": b"no image"}, ImageError, "JPEG, PNG"),
        ({"user": SAFE, "mode": "reason"}, ArtifactError, "mode"),
        ({"user": SAFE, "policy": "nowhere"}, PolicyError, "nowhere"),
        ({"user": SAFE, "policy": OTHER_POLICY}, ArtifactError, "its own policy"),
        ({}, InputError, "nothing to judge"),
    ],
    ids=["language", "sight", "image", "mode", "name", "policy", "nothing"],
)  # fmt: skip
def test_errors_are_those_of_a_guard(
    client: Client, fields: dict[str, Any], kind: type[ProGuardEdgeError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        client.moderate(**fields)
    assert type(caught.value) is kind


def test_a_request_that_is_larger_than_the_server_takes_is_an_error(client: Client) -> None:
    # A server that does not read all of it may reset the connection before its answer is read.
    with pytest.raises((LimitError, ServiceError)):
        client.moderate(SAFE, [os.urandom(19 << 20), os.urandom(19 << 20)])


def test_the_server_s_policy_may_be_named(client: Client, guard: Guard) -> None:
    (policy,) = client.policies()
    assert (policy.name, policy.digest) == ("default", guard.policy.digest())
    assert same(client.moderate(SAFE, policy=policy.name), guard.moderate(SAFE))
    assert same(client.moderate(SAFE, policy=guard.policy), guard.moderate(SAFE))


def test_a_lone_surrogate_in_raw_json_is_refused_by_the_server_too(server: str) -> None:
    body = json.dumps({"user": "half \ud800"}).encode()
    asked = urllib.request.Request(
        f"{server}/v1/verdicts", body, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60)
    with caught.value as refused:
        assert refused.status == 400


@pytest.mark.parametrize("way", ["moderate_many", "stream"])
def test_many_requests_come_back_in_order(client: Client, guard: Guard, way: str) -> None:
    asked = [*REQUESTS, Request("\x00"), Request(SAFE, images=(b"no image",)), *REQUESTS]
    found = list(getattr(client, way)(asked))
    expected = list(guard.moderate_many(asked))
    assert len(found) == len(asked)
    for mine, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, Verdict):
            assert isinstance(mine, Verdict)
            assert same(mine, theirs)
        else:
            assert not isinstance(mine, Verdict)


def test_tasks_may_share_the_asynchronous_client(server: str) -> None:
    async def ask() -> list[Verdict]:
        async with AsyncClient(server, timeout=120) as client:
            assert await client.ready()
            return await asyncio.gather(*(client.moderate(text) for text in (SAFE, UNSAFE) * 3))

    assert [verdict.unsafe for verdict in asyncio.run(ask())] == [False, True] * 3


def test_a_key_is_needed_where_the_server_has_keys(tmp_path: Path) -> None:
    from proguard_edge.serve.keys import new_key

    key = new_key(tmp_path / "keys", "tests")
    with served(tmp_path / "log.txt", "--api-keys", str(tmp_path / "keys")) as running:
        with Client(running.url) as client, pytest.raises(EngineError, match="api_key"):
            client.moderate(SAFE)
        with Client(running.url, key, timeout=120) as client:
            assert client.ready()
            assert not client.moderate(SAFE).unsafe


def test_a_worker_or_a_server_that_dies_gives_an_error_and_no_verdict(tmp_path: Path) -> None:
    with served(tmp_path / "log.txt", code=-signal.SIGKILL) as running:
        assert type(judged_while_killing(running, running.worker())) is WorkerError
        # Another worker starts; whoever has time to wait gets a verdict.
        with Client(running.url, timeout=120, retries=20) as client:
            assert not client.moderate(SAFE).unsafe
        assert type(judged_while_killing(running, running.process.pid)) is ServiceError


def judged_while_killing(running: Served, process: int) -> Any:
    """What comes of a request that takes seconds when a process dies meanwhile."""
    long = "The weather was fine and the children played in the garden. " * 1000

    async def ask_and_kill() -> Any:
        async with AsyncClient(running.url, timeout=120, retries=0) as client:
            asked = asyncio.create_task(client.moderate(long))
            await asyncio.sleep(1.0)
            os.kill(process, signal.SIGKILL)
            return await asyncio.gather(asked, return_exceptions=True)

    (found,) = asyncio.run(ask_and_kill())
    return found


def test_a_seeing_artifact_gives_a_guard_s_verdicts_on_files_bytes_and_pil_images(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    Image.new("RGBA", (60, 40), (200, 30, 30, 128)).save(path)
    with (
        Image.open(path) as opened,
        served(tmp_path / "log.txt", "--artifact", str(tiny_onnx), "--no-ocr") as running,
        Client(running.url, timeout=120) as client,
        Guard.load(tiny_onnx, threads=1, ocr=False) as guard,
    ):
        for image in (path, path.read_bytes(), opened):
            mine = client.moderate("what is this?", image, mode="reason")
            assert same(mine, guard.moderate("what is this?", path, mode="reason"))
        two = client.moderate(image=[path, opened], response="A red square.")
        assert same(two, guard.moderate(image=[path, opened], response="A red square."))
