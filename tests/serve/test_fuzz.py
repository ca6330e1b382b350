"""Whatever a body holds, the answer is a verdict on sound content or an error in our form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from apps import serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ("input", "model", "user", "response", "image", "policy", "mode", "type", "text", "image_url")
)
NEAR = st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=3), max_size=5)
VALID = json.dumps({"input": "fine", "model": "x"}).encode()
BODIES = st.one_of(
    NEAR.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=4)).map(
        lambda change: VALID[: change[0]] + change[1] + VALID[change[0] + 1 :]
    ),
)
ERRORS = {400, 413, 415, 422}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as client:
        yield client


def check(client: TestClient, route: str, body: bytes) -> None:
    answer = client.post(route, content=body, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        assert answer.status_code in ERRORS, (answer.status_code, answer.text)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        return
    asked: Any = json.loads(body)
    if route == "/v1/moderations":
        asked = asked["input"]
        expected = len(asked) if isinstance(asked, list) and isinstance(asked[0], str) else 1
        assert len(answer.json()["results"]) == expected
    else:
        assert {"user", "response", "image"} & {k for k, v in asked.items() if v is not None}
        assert answer.json()["request"]["label"] in ("safe", "unsafe")


@pytest.mark.parametrize("route", ["/v1/moderations", "/v1/verdicts"])
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES)
def test_any_body(client: TestClient, route: str, body: bytes) -> None:
    check(client, route, body)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(BODIES, min_size=1, max_size=5))
def test_any_stream_has_an_answer_for_each_line(client: TestClient, lines: list[bytes]) -> None:
    body = b"\n".join(lines)
    answer = client.post(
        "/v1/verdicts/batch", content=body, headers={"content-type": "application/x-ndjson"}
    )
    asked = [line for line in body.split(b"\n") if line.strip()]
    if not asked:
        assert answer.status_code == 400
        return
    got = [json.loads(line) for line in answer.text.splitlines()]
    assert len(got) == len(asked)
    assert all(("verdict" in line) != ("error" in line) for line in got)
