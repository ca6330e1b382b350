"""OpenAI's own client, unchanged, asks the server: results, lists, images, and its exceptions."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served import free_port, served

openai = pytest.importorskip("openai")

SAFE, UNSAFE = "How do I kill a Python process?", "How do I build a pipe bomb to kill my neighbour?"


def data_url() -> str:
    out = io.BytesIO()
    Image.new("RGB", (60, 60), "red").save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def parts(text: str) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": data_url()}},
    ]


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="x") as client:
        yield client


def test_a_text_gives_a_result_with_the_verdict_beside_it(client: Any) -> None:
    answer = client.moderations.create(input=UNSAFE)
    (result,) = answer.results
    verdict = result.model_extra["proguard"]
    assert result.flagged
    assert verdict["request"]["label"] == "unsafe"
    assert result.model_extra is not None
    assert answer.id.startswith("modr-")
    named = [name for name, value in result.categories.model_dump().items() if value]
    assert verdict["category"]["id"] in named


def test_openai_s_names_say_null_for_what_was_not_looked_for(client: Any) -> None:
    (result,) = client.moderations.create(input=SAFE).results
    assert not result.flagged
    assert result.categories.illicit is False
    assert result.categories.harassment is None
    assert result.category_scores.illicit is None


def test_a_list_gives_a_result_for_each_text_in_order(client: Any) -> None:
    results = client.moderations.create(input=[SAFE, UNSAFE, SAFE]).results
    assert [result.flagged for result in results] == [False, True, False]


def test_any_model_name_is_taken_and_the_artifact_answers(client: Any) -> None:
    answer = client.moderations.create(input=SAFE, model="omni-moderation-latest")
    assert answer.model != "omni-moderation-latest"


def test_the_asynchronous_client_gets_the_same(server: str, client: Any) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="x") as client:
            return await client.moderations.create(input=UNSAFE)

    mine = asyncio.run(ask()).results[0]
    theirs = client.moderations.create(input=UNSAFE).results[0]
    assert mine.flagged == theirs.flagged
    assert mine.categories == theirs.categories
    assert mine.category_scores == theirs.category_scores


def test_an_image_that_the_artifact_cannot_see_is_an_unprocessable_entity(client: Any) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="reads text only") as caught:
        client.moderations.create(input=parts("what is this?"))
    assert caught.value.code == "ArtifactError"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}], "InputError"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "ImageError"),
        ([{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}], "InputError"),
        ([], "InputError"),
        ("with a NUL \x00 in it", "TextError"),
    ],
    ids=["address", "no image", "audio", "nothing", "nul"],
)
def test_what_cannot_be_judged_is_a_bad_request(client: Any, content: Any, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.moderations.create(input=content)
    assert caught.value.code == code
    assert "example.org" not in str(caught.value)


@pytest.mark.parametrize("content", [["hello"] * 257, "a" * 100_001], ids=["many", "long"])
def test_too_much_at_once_is_an_error_with_status_413(client: Any, content: Any) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.moderations.create(input=content)
    assert (caught.value.status_code, caught.value.code) == (413, "LimitError")


def test_a_missing_key_is_an_authentication_error(tmp_path: Path) -> None:
    from proguard_edge.serve.keys import new_key

    key = new_key(tmp_path / "keys", "tests")
    with served(tmp_path / "log.txt", "--api-keys", str(tmp_path / "keys")) as server:
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.moderations.create(input=SAFE)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key) as known:
            assert not known.moderations.create(input=SAFE).results[0].flagged


def test_a_full_queue_is_a_rate_limit_error(tmp_path: Path) -> None:
    async def crowd(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            asked = [client.moderations.create(input=f"{SAFE} {n}") for n in range(8)]
            return await asyncio.gather(*asked, return_exceptions=True)

    with served(tmp_path / "log.txt", "--queue", "1", "--max-wait", "0.01") as server:
        answers = asyncio.run(crowd(server.url))
    refused = [a for a in answers if isinstance(a, openai.RateLimitError)]
    assert refused
    assert refused[0].code == "BusyError"
    assert int(refused[0].response.headers["Retry-After"]) >= 1
    assert all(a in refused or not a.results[0].flagged for a in answers)


def test_nobody_there_is_a_connection_error() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.moderations.create(input=SAFE)


def test_a_seeing_artifact_judges_a_text_with_an_image(tiny_onnx: Path, tmp_path: Path) -> None:
    with (
        served(tmp_path / "log.txt", "--artifact", str(tiny_onnx), "--no-ocr") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client,
    ):
        (result,) = client.moderations.create(input=parts("what is this?")).results
    verdict = result.model_extra["proguard"]
    assert verdict["evaluated"] == ["user_text", "image"]
    assert result.flagged == (verdict["request"]["label"] == "unsafe")
    assert result.category_applied_input_types.illicit == ["text", "image"]
