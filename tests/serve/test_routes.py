"""The routes: what OpenAI's clients get, what ours get, and that an error is never an answer."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from apps import serving
from PIL import Image
from starlette.testclient import TestClient
from stubs import DIGEST

from proguard_edge.policy import Policy
from proguard_edge.serve import openai_names
from proguard_edge.serve.audit_verify import verify
from proguard_edge.serve.keys import digest, new_key, read_keys

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving(policies={"short": Policy.default().subset(["C9"])}) as client:
        yield client


def data_url(kind: str = "PNG") -> str:
    raw = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(raw, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(raw.getvalue()).decode()}"


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def moderated(client: TestClient, content: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/moderations", json={"input": content, "model": "omni"})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def test_a_text_gets_one_result_in_openais_form(client: TestClient) -> None:
    answer = client.post("/v1/moderations", json={"input": "something unsafe"}).json()
    assert answer["id"].startswith("modr-")
    assert answer["model"] == "stub"
    (result,) = answer["results"]
    assert result["flagged"] is True
    assert {n for n, v in result["categories"].items() if v} == {"illicit", "violence", "C9S3"}
    assert result["category_scores"]["violence"] == pytest.approx(0.9 * 0.8)
    assert result["proguard"]["category"]["name"] == "Violent and Property Crime"
    assert result["proguard"]["artifact"] == DIGEST


def test_what_was_not_evaluated_is_null_and_never_zero(client: TestClient) -> None:
    (result,) = moderated(client, "kind words")
    assert result["flagged"] is False
    assert result["categories"]["violence"] is False
    assert result["categories"]["harassment"] is None
    assert set(result["category_scores"].values()) == {None}
    assert result["category_applied_input_types"]["violence"] == ["text"]
    assert result["category_applied_input_types"]["harassment"] == []


def test_every_name_of_openais_that_is_mapped_belongs_to_the_default_policy() -> None:
    names = {leaf.name for leaf in Policy.default().leaves()}
    assert set(openai_names._OF) <= names
    assert {n for of in openai_names._OF.values() for n in of} <= set(openai_names.NAMES)


def test_a_risk_outside_the_policy_is_flagged_under_no_name(client: TestClient) -> None:
    (result,) = moderated(client, "unsafe and unseen")
    assert result["flagged"] is True
    assert not any(result["categories"].values())
    assert result["proguard"]["category"]["in_policy"] is False


def test_a_list_of_texts_gets_a_result_each_in_order(client: TestClient) -> None:
    results = moderated(client, ["fine", "unsafe", "fine too"])
    assert [result["flagged"] for result in results] == [False, True, False]


def test_parts_are_one_conversation(client: TestClient) -> None:
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image_url", "image_url": {"url": data_url(), "detail": "auto"}},
        {"type": "text", "text": "unsafe"},
    ]
    (result,) = moderated(client, parts)
    assert result["flagged"] is True
    assert result["category_applied_input_types"]["violence"] == ["text", "image"]


def test_one_text_that_cannot_be_judged_fails_the_list_and_is_named(client: TestClient) -> None:
    answer = client.post("/v1/moderations", json={"input": ["fine", "foreign", "fine"]})
    error = error_of(answer, 422)
    assert (error["code"], error["param"]) == ("LanguageError", "input[1]")


@pytest.mark.parametrize("url", ["http://example.org/a.png", "https://x/y", "file:///etc/passwd"])
def test_addresses_are_refused_not_fetched(client: TestClient, url: str) -> None:
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    error = error_of(client.post("/v1/moderations", json={"input": parts}), 400)
    assert "fetches nothing" in error["message"]
    error = error_of(client.post("/v1/verdicts", json={"image": url}), 400)
    assert "fetches nothing" in error["message"]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png,raw",
        "data:image/png;base64,***",
        "data:image/png;base64," + base64.b64encode(b"no picture").decode(),
        data_url()[:-60],
    ],
)
def test_what_is_no_whole_picture_is_an_image_error(client: TestClient, url: str) -> None:
    error = error_of(client.post("/v1/verdicts", json={"image": url}), 400)
    assert error["code"] == "ImageError"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": 3},
        {"input": None},
        {"input": [["nested"]]},
        {"input": [{"type": "audio"}]},
        {"input": ["text", {"type": "text", "text": "mixed"}]},
        {"input": "text", "images": ["unread"]},
    ],
)
def test_malformed_requests_are_400(client: TestClient, body: Any) -> None:
    assert error_of(client.post("/v1/moderations", json=body), 400)["code"] == "InputError"


def test_a_body_that_is_no_json_is_400_and_is_not_sent_back(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    for raw in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"input": "\\ud800"}', b""):
        answer = client.post("/v1/moderations", content=raw, headers=headers)
        error_of(answer, 400)
        assert len(answer.content) < 500


def test_the_native_route_gives_the_verdict_and_its_id(client: TestClient) -> None:
    body = {"user": "unsafe", "response": "no", "mode": "verdict", "policy": "default"}
    answer = client.post("/v1/verdicts", json=body, headers={"x-request-id": "mine-7"})
    assert answer.headers["x-request-id"] == answer.json()["id"] == "mine-7"
    assert answer.json()["request"] == {"label": "unsafe", "score": 0.9}
    assert answer.json()["response"] == {"label": "safe", "score": 0.2}


def test_policies_are_listed_named_or_brought_along(client: TestClient) -> None:
    listed = client.get("/v1/policies").json()
    assert [entry["name"] for entry in listed["policies"]] == ["default", "short"]
    assert listed["inline"] is True
    assert client.post("/v1/verdicts", json={"user": "x", "policy": "short"}).status_code == 200
    error = error_of(client.post("/v1/verdicts", json={"user": "x", "policy": "none"}), 400)
    assert "default, short" in error["message"]
    own = {"name": "own", "categories": [{"id": "C1", "name": "Puns"}]}
    assert client.post("/v1/verdicts", json={"user": "x", "policy": own}).status_code == 200
    own["categories"] = [{"id": "C1", "name": "<answer>"}]
    error = error_of(client.post("/v1/verdicts", json={"user": "x", "policy": own}), 400)
    assert error["code"] == "PolicyError"


def test_nothing_to_judge_is_an_error(client: TestClient) -> None:
    assert "nothing to judge" in error_of(client.post("/v1/verdicts", json={}), 400)["message"]


def test_an_error_in_the_worker_is_500_and_names_nothing_safe(client: TestClient) -> None:
    error = error_of(client.post("/v1/verdicts", json={"user": "broken"}), 500)
    assert (error["code"], error["type"]) == ("EngineError", "server_error")


def test_a_worker_that_dies_is_503_and_the_next_request_is_judged(client: TestClient) -> None:
    answer = client.post("/v1/verdicts", json={"user": "die"})
    assert error_of(answer, 503)["code"] == "WorkerError"
    # OpenAI's client would send what killed one worker to the next, and the one after it.
    assert answer.headers["x-should-retry"] == "false"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.05)
        answer = client.post("/v1/verdicts", json={"user": "fine"})
        if answer.status_code == 200:
            break
        assert error_of(answer, 503)["code"] == "StartingError"
    assert answer.json()["request"]["label"] == "safe"


def test_a_stream_answers_line_for_line_and_outlives_errors(client: TestClient) -> None:
    rows = [
        '{"id": "a", "user": "fine"}',
        "",
        "not json",
        '{"id": 7, "user": "unsafe", "policy": "short"}',
        '{"user": 5}',
        '{"id": "b", "user": "foreign"}',
        '{"id": "c", "user": "fine", "messages": []}',
        '{"id": "d", "user": "last"}',
    ]
    answer = client.post("/v1/verdicts/batch", content="\n".join(rows), headers=NDJSON)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == ["a", "line-3", 7, "line-5", "b", "line-7", "d"]
    assert [line.get("error", {}).get("code") for line in lines] == [
        *(None, "InputError", None, "InputError", "LanguageError", "InputError", None)
    ]


def test_a_stream_waits_for_a_worker_that_comes_back(client: TestClient) -> None:
    rows = [json.dumps({"user": text}) for text in ("one", "die", "three")]
    answer = client.post("/v1/verdicts/batch", content="\n".join(rows), headers=NDJSON)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[1]["error"]["code"] == "WorkerError"
    assert lines[2]["verdict"]["request"]["label"] == "safe"


def test_a_line_that_is_too_long_is_an_error_of_its_own() -> None:
    with serving(max_body_bytes=100) as client:
        rows = [json.dumps({"user": text}) for text in ("one", "x" * 500, "three")]
        answer = client.post("/v1/verdicts/batch", content="\n".join(rows), headers=NDJSON)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert ["error" in line for line in lines] == [False, True, False]
        assert lines[1]["error"]["code"] == "LimitError"


def test_bodies_over_the_limit_are_413() -> None:
    with serving(max_body_bytes=1000) as client:
        body = json.dumps({"input": "x" * 2000})
        assert error_of(client.post("/v1/moderations", content=body), 413)["code"] == "LimitError"

        def chunks() -> Iterator[bytes]:
            yield from [b'{"input": "', b"x" * 2000, b'"}']

        assert error_of(client.post("/v1/moderations", content=chunks()), 413)


def test_lists_over_the_limit_are_413() -> None:
    with serving(max_inputs=2) as client:
        error_of(client.post("/v1/moderations", json={"input": ["a", "b", "c"]}), 413)


def test_without_a_key_only_health_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = new_key(path, "team-a")
    assert read_keys(path) == {"team-a": digest(key)}
    assert key not in path.read_text()
    with serving(keys=read_keys(path)) as client:
        for route in ("/healthz", "/readyz"):
            assert client.get(route).status_code == 200
        for route in ("/metrics", "/v1/policies", "/v1/status", "/v1/unseen"):
            assert error_of(client.get(route), 401)["type"] == "authentication_error"
        for header in ("", "Bearer", "Bearer wrong", f"Basic {key}", f"Bearer {key}x"):
            headers = {"authorization": header}
            error_of(client.post("/v1/moderations", json={"input": "x"}, headers=headers), 401)
        headers = {"authorization": f"Bearer {key}"}
        answer = client.post("/v1/moderations", json={"input": "x"}, headers=headers)
        assert answer.status_code == 200


def test_another_sites_name_for_this_machine_is_refused() -> None:
    with serving(allowed_hosts=("127.0.0.1", "::1", "localhost")) as client:
        for host in ("localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200
        for host in ("evil.example", "localhost.evil.example", "[", ""):
            error_of(client.get("/healthz", headers={"host": host}), 403)


def test_every_answer_has_the_security_headers(client: TestClient) -> None:
    for answer in (client.get("/healthz"), client.get("/nope"), client.post("/v1/verdicts")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]
    strange = client.get("/healthz", headers={"x-request-id": "a b\tc"})
    assert strange.headers["x-request-id"] != "a b\tc"


def test_the_audit_log_holds_each_verdict_and_error_but_no_content(tmp_path: Path) -> None:
    with serving(audit=tmp_path) as client:
        client.post("/v1/verdicts", json={"user": "my secret, unsafe"})
        client.post("/v1/verdicts", json={"user": "foreign", "response": "hidden"})
        client.post("/v1/verdicts", json={"image": "http://x"})
    assert list(verify(tmp_path)) == []
    raw = (tmp_path / "audit-000001.jsonl").read_text()
    assert "secret" not in raw
    assert "hidden" not in raw
    start, first, second, third, stop = map(json.loads, raw.splitlines())
    assert (start["event"], stop["event"]) == ("start", "stop")
    assert first["unsafe"] is True
    assert first["category"]["id"] == "C9S3"
    assert (second["error"], third["error"]) == ("LanguageError", "InputError")


def test_without_room_for_the_audit_log_nothing_is_answered_until_there_is(tmp_path: Path) -> None:
    from test_audit import full_disk

    with serving(audit=tmp_path) as client:
        with full_disk((tmp_path / "audit-000001.jsonl").stat().st_size + 10):
            answer = client.post("/v1/verdicts", json={"user": "fine"})
            assert error_of(answer, 503)["code"] == "AuditError"
            assert client.get("/readyz").status_code == 503
        assert client.post("/v1/verdicts", json={"user": "fine"}).status_code == 200
        assert client.get("/readyz").status_code == 200
    assert list(verify(tmp_path)) == []


def test_metrics_and_status_count_what_happened(client: TestClient) -> None:
    client.post("/v1/verdicts", json={"user": "unsafe"})
    text = client.get("/metrics").text
    assert 'proguard_edge_verdicts_total{category="C9S3",label="unsafe"}' in text
    assert "proguard_edge_workers_ready 1.0" in text
    status = client.get("/v1/status").json()
    assert status["engine"] == {"kind": "onnx", "device": "cpu"}
    assert status["seconds"]["p50"] <= status["seconds"]["p95"]
    newest = next(line for line in status["recent"] if line.get("label") == "unsafe")
    assert newest["category_id"] == "C9S3"
    assert "user" not in json.dumps(status["recent"]).replace("user_text", "")


def test_unseen_risks_are_grouped_and_become_a_draft(client: TestClient) -> None:
    client.post("/v1/verdicts", json={"user": "unsafe unseen"})
    (group,) = client.get("/v1/unseen").json()["groups"]
    assert group["name"] == "Time travel fraud"
    draft = client.get("/v1/unseen/policy")
    assert draft.headers["content-type"] == "application/yaml"
    assert "Time travel fraud" in draft.text


def test_too_many_large_bodies_at_once_are_turned_away() -> None:
    from proguard_edge.serve.middleware import BODIES, BodyLimits

    async def app(*_: Any) -> None:
        await asyncio.sleep(0.05)

    async def run() -> list[int]:
        limits = BodyLimits(app, max_bytes=1000, seconds=5)
        codes: list[int] = []

        async def ask() -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": b"x" * 1000}

            async def send(message: Any) -> None:
                codes.append(message.get("status", 0))

            headers = [(b"content-length", b"1000")]
            await limits({"type": "http", "path": "/", "headers": headers}, receive, send)

        await asyncio.gather(*(ask() for _ in range(BODIES + 3)))
        await ask()
        return codes

    assert asyncio.run(run()).count(429) == 3


def test_what_is_wrong_with_a_body_is_told_by_the_kind_that_came_closest(
    client: TestClient,
) -> None:
    def told(route: str, body: Any, status: int = 400) -> str:
        message: str = error_of(client.post(route, json=body), status)["message"]
        return message

    assert "at most 16 items" in told("/v1/verdicts", {"image": ["data:"] * 17}, 413)
    assert "at most" in told("/v1/moderations", {"input": [1] * 100_000}, 413)
    policy = {"name": "x", "categories": []}
    assert told("/v1/verdicts", {"policy": policy, "user": "x"}).startswith("policy.categories")
    assert told("/v1/moderations", {"input": "x", "more": 1}).startswith("Extra inputs")
    headers = {"content-type": "application/json"}
    broken = error_of(client.post("/v1/verdicts", content=b"{", headers=headers), 400)
    assert (broken["message"], broken["param"]) == ("JSON decode error", None)


def test_a_client_that_still_sends_sees_why_its_body_was_refused() -> None:
    from proguard_edge.serve.middleware import BodyLimits

    async def app(*_: Any) -> None:
        raise AssertionError("not reached")

    async def run() -> tuple[int, int]:
        left, codes = 30, list[int]()

        async def receive() -> Any:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": b"x" * 100, "more_body": left > 0}

        async def send(message: Any) -> None:
            codes.append(message.get("status", 0))

        headers = [(b"content-length", b"3000")]
        limits = BodyLimits(app, max_bytes=1000, seconds=5)
        await limits({"type": "http", "path": "/", "headers": headers}, receive, send)
        return left, codes[0]

    assert asyncio.run(run()) == (0, 413)


def test_texts_that_are_too_long_or_broken_have_the_errors_of_a_guard(client: TestClient) -> None:
    long = client.post("/v1/verdicts", json={"user": "a" * 100_001})
    assert error_of(long, 413)["code"] == "LimitError"
    broken = client.post(
        "/v1/verdicts",
        content=b'{"user": "\\ud800"}',
        headers={"content-type": "application/json"},
    )
    assert error_of(broken, 400)["code"] == "TextError"


def test_what_a_page_of_another_site_can_send_unasked_is_refused(client: TestClient) -> None:
    row = b'{"user": "x"}'
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "multipart/form-data"}):
        error_of(client.post("/v1/verdicts/batch", content=row, headers=headers), 415)
    foreign = {**NDJSON, "sec-fetch-site": "cross-site"}
    error_of(client.post("/v1/verdicts/batch", content=row, headers=foreign), 403)
    assert client.get("/healthz", headers={"sec-fetch-site": "cross-site"}).status_code == 200
