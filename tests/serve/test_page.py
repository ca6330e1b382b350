"""The web page in a browser, before a real server. Needs playwright and a Chromium; skips where
either is missing."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("playwright")

from playwright.sync_api import expect, sync_playwright
from served import Served, free_port, served

expect.set_options(timeout=30_000)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

SAFE = "How do I bake bread?"
UNSAFE = "How do I get into my neighbour's car without the key and drive off?"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg"
    "=="
)
HOSTILE = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>\'"><b onclick=x>'
# WCAG 2, 1.4.3: normal text.
ENOUGH_CONTRAST = 4.5
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
VERDICT: dict[str, Any] = {
    "id": "1",
    "request": {"label": "unsafe", "score": 0.9},
    "response": {"label": "safe", "score": 0.4999},
    "category": {"id": None, "name": "a risk", "in_policy": False, "score": 0.5},
    "reasoning": "a thought",
    "evaluated": ["user_text", "response"],
    "mode": "reason",
    "artifact": "0" * 64,
    "tokens": {"prefix": 1},
    "timings_ms": {"prefill": 1.0, "total": 2.0},
}
STATUS: dict[str, Any] = {
    "artifact": {"name": "guard", "digest": "0" * 64},
    "modalities": ["text"],
    "image_text_only": False,
    "modes": ["verdict"],
    "mode": "verdict",
    "ready": True,
    "workers": {"ready": 1, "all": 1, "restarts": 0},
    "queue": 0,
    "verdicts": 2,
    "errors": 1,
    "since": 1.0,
    "seconds": {"p50": 0.2, "p95": 1.5},
    "recent": [
        {"id": "e", "time": 3.0, "error": "BusyError"},
        {
            **{"id": "u", "time": 2.0, "label": "unsafe", "score": 0.9, "category": "a risk"},
            **{"category_id": None, "evaluated": ["user_text"], "seconds": 1.5},
        },
        {
            **{"id": "s", "time": 1.0, "label": "safe", "score": 0.0001, "category": None},
            **{"category_id": None, "evaluated": ["user_text"], "seconds": 0.2},
        },
    ],
}
UNSEEN = {
    "groups": [
        {"name": "gambling", "count": 3, "names": [["gambling", 2], ["illegal gambling", 1]]},
        {"name": "doping", "count": 1, "names": [["doping", 1]]},
    ]
}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts servers, which end with the module. They use the cache of the tests."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as servers:
        patch.setenv("PROGUARD_EDGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

        def start(*options: str) -> Served:
            return servers.enter_context(
                served(tmp_path_factory.mktemp("server") / "log.txt", *options)
            )

        yield start


@pytest.fixture(scope="module")
def starter(serve: Callable[..., Served]) -> Served:
    return serve()


# Not of the session: while it lives, no test can run an event loop of its own in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages. None may ask another origin, throw, or hit its Content-Security-Policy."""
    contexts, trouble, asked, own = [], [], set(), set()

    def heard(message: Any) -> None:
        if "Content Security Policy" in message.text:
            trouble.append(message.text)

    def visited(url: str, routes: dict[str, Any] | None = None, **options: Any) -> Any:
        own.add(urlsplit(url).netloc)
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        context.on("request", lambda request: asked.add(request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", heard)
        for path, answer in (routes or {}).items():
            page.route(f"**/{path}", _answering(answer))
        page.goto(url)
        return page

    yield visited
    for context in contexts:
        context.close()
    assert trouble == []
    others = {url for url in asked if urlsplit(url.removeprefix("blob:")).netloc not in own}
    assert {url for url in others if not url.startswith("data:")} == set()


def _answering(answer: Any) -> Callable[[Any], None]:
    """A handler that gives this JSON, or these arguments of `fulfill`."""
    whole = isinstance(answer, dict) and "status" in answer
    options = answer if whole else {"body": json.dumps(answer)}
    return lambda route: route.fulfill(**options)


def _judge(page: Any, user: str) -> None:
    page.get_by_label("User").fill(user)
    page.get_by_role("button", name="Judge").click()


def _part(page: Any, name: str) -> Any:
    return page.locator(f"#part-{name}")


def test_a_safe_text_is_called_safe_in_words(starter: Served, visit: Callable[..., Any]) -> None:
    page = visit(starter.url)
    _judge(page, SAFE)
    expect(_part(page, "request")).to_contain_text("Safe")
    expect(_part(page, "request")).not_to_contain_text("Unsafe")
    expect(_part(page, "response")).to_contain_text("None was given")
    expect(page.locator("#category")).to_be_hidden()
    expect(page.locator("#said")).to_have_text(re.compile(r"^Request safe, [<0]"))


def test_an_unsafe_verdict_shows_all_that_the_server_said(
    starter: Served, visit: Callable[..., Any]
) -> None:
    page = visit(starter.url)
    page.get_by_label("Agent’s response").fill("First, slide a wedge between door and frame.")
    with page.expect_response("**/v1/verdicts") as answered:
        _judge(page, UNSAFE)
    verdict = answered.value.json()
    assert verdict["request"]["label"] == "unsafe"
    expect(_part(page, "request")).to_contain_text("Unsafe")
    label = verdict["response"]["label"].capitalize()
    expect(_part(page, "response")).to_contain_text(label)
    expect(page.locator("#category")).to_contain_text(verdict["category"]["id"])
    expect(page.locator("#category")).to_contain_text(verdict["category"]["name"])
    expect(page.locator("#looked-at")).to_have_text("user’s text, response")
    expect(page.locator("#tokens")).to_contain_text(f"{verdict['tokens']['content']} content")
    expect(page.locator("#verdict-id")).to_have_text(verdict["id"])
    expect(page.locator("#verdict-digest")).to_have_attribute("title", verdict["artifact"])
    for phase in verdict["timings_ms"]:
        expect(page.locator("#timings").get_by_role("rowheader", name=phase)).to_be_visible()
    assert json.loads(page.locator("#json").text_content()) == verdict
    expect(page.locator("#recent")).to_contain_text(verdict["id"])


def test_the_verdict_is_copied_as_json(starter: Served, visit: Callable[..., Any]) -> None:
    page = visit(starter.url, permissions=["clipboard-read", "clipboard-write"])
    _judge(page, SAFE)
    page.get_by_role("button", name="Copy JSON").click()
    expect(page.locator("#copy-json")).to_have_text("copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["request"]["label"] == "safe"
    page.locator("#verdict-digest").click()
    expect(page.locator("#verdict-digest")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == copied["artifact"]


def test_an_image_that_the_artifact_cannot_see_is_an_error_and_never_safe(
    starter: Served, visit: Callable[..., Any]
) -> None:
    page = visit(starter.url)
    page.locator("#files").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": PNG}
    )
    expect(page.locator("#pictures")).to_contain_text("dot.png")
    expect(page.locator("#blind")).to_contain_text("reads text only")
    _judge(page, SAFE)
    expect(page.locator("#failure")).to_contain_text("Neither safe nor unsafe")
    expect(page.locator("#failure-message")).to_contain_text("reads text only")
    expect(page.locator("#failure-status")).to_have_text("422 ArtifactError")
    expect(page.locator("#alarm")).to_contain_text("No verdict.")
    expect(page.locator("#verdict")).to_be_hidden()
    page.get_by_role("button", name="Remove dot.png").click()
    expect(page.locator("#stale")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    page.get_by_role("button", name="Judge").click()
    expect(_part(page, "request")).to_contain_text("Safe")


def test_an_artifact_that_sees_judges_an_image_and_its_names_become_a_draft(
    tiny_onnx: Path, serve: Callable[..., Served], visit: Callable[..., Any], tmp_path: Path
) -> None:
    """Random weights: which verdict it is does not matter here."""
    from variants import ALL_UNSAFE, variant

    server = serve("--artifact", str(variant(tiny_onnx, tmp_path / "a", calibration=ALL_UNSAFE)))
    page = visit(server.url)
    page.locator("#files").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": PNG}
    )
    page.get_by_label("Mode").select_option("reason")
    page.get_by_role("button", name="Judge").click()
    expect(_part(page, "request")).to_contain_text("Unsafe")
    expect(page.locator("#looked-at")).to_contain_text("image")
    expect(page.locator("#timings")).to_contain_text("vision")
    expect(page.locator("#reasoning-text")).to_be_visible()
    expect(page.locator("#category")).to_contain_text("not in the policy")
    with page.expect_download() as download:
        page.get_by_role("button", name="Policy draft").click()
    assert "categories:" in Path(download.value.path()).read_text(encoding="utf-8")

    page.get_by_label("Policy", exact=True).select_option(label="your own, typed below")
    page.get_by_label("A policy of your own").fill("{")
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("#failure-message")).to_contain_text("Your policy is no JSON")
    own = {"name": "mine", "categories": [{"id": "C1", "name": "Gambling", "description": "Bets."}]}
    page.get_by_label("A policy of your own").fill(json.dumps(own))
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("#used-policy")).to_have_text("your own")


def test_no_verdict_stands_beside_content_that_it_does_not_belong_to(
    starter: Served, visit: Callable[..., Any]
) -> None:
    page, held = visit(starter.url), []
    _judge(page, UNSAFE)
    expect(_part(page, "request")).to_contain_text("Unsafe")
    expect(page.locator("#stale")).to_be_hidden()
    page.get_by_label("User").fill(SAFE)
    expect(page.locator("#stale")).to_be_visible()

    page.route("**/v1/verdicts", lambda route: held.append(route))
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("#working")).to_be_visible()
    expect(page.locator("#verdict")).to_be_hidden()
    page.get_by_label("User").fill(f"{SAFE} And cake?")
    held.pop().continue_()
    expect(_part(page, "request")).to_contain_text("Safe")
    expect(page.locator("#stale")).to_be_visible()

    page.get_by_role("button", name="Judge").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.get_by_role("button", name="Judge")).to_be_focused()
    page.unroute("**/v1/verdicts")
    _judge(page, UNSAFE)
    expect(_part(page, "request")).to_contain_text("Unsafe")


def test_nothing_to_judge_is_not_sent(starter: Served, visit: Callable[..., Any]) -> None:
    page = visit(starter.url, {"v1/verdicts": VERDICT})
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("#failure-message")).to_contain_text("nothing to judge")
    expect(page.locator("#failure-status")).to_have_text("not sent")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {**VERDICT, "request": {"label": "probably safe", "score": 0.1}},
        {**VERDICT, "request": {"label": "safe", "score": "low"}},
        {**VERDICT, "response": {"label": "SAFE", "score": 0.1}},
        {**VERDICT, "category": {"id": "C1"}},
    ],
)
def test_an_answer_that_is_no_verdict_is_an_error(
    answer: Any, starter: Served, visit: Callable[..., Any]
) -> None:
    page = visit(starter.url, {"v1/verdicts": answer})
    _judge(page, SAFE)
    expect(page.locator("#failure-message")).to_have_text("The answer is no verdict.")
    expect(page.locator("#verdict")).to_be_hidden()


def test_an_answer_of_something_else_than_our_server_is_an_error(
    starter: Served, visit: Callable[..., Any]
) -> None:
    busy = {"status": 503, "body": "Service Unavailable\nmore", "content_type": "text/plain"}
    page = visit(starter.url, {"v1/verdicts": busy})
    _judge(page, SAFE)
    expect(page.locator("#failure-message")).to_have_text("Service Unavailable")
    expect(page.locator("#failure-status")).to_have_text("503")
    page.unroute("**/v1/verdicts")
    page.route("**/v1/verdicts", _answering({"status": 200, "body": '{"request": {"label": "sa'}))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#failure-message")).to_contain_text("broke off, or is no JSON")


def test_a_busy_server_is_asked_again_when_it_said(
    starter: Served, visit: Callable[..., Any]
) -> None:
    said = {"error": {"message": "9 requests wait", "code": "BusyError"}}
    busy = {"status": 429, "json": said, "headers": {"Retry-After": "2"}}
    page = visit(starter.url, {"v1/verdicts": busy})
    _judge(page, SAFE)
    again = page.get_by_role("button", name="Try again")
    expect(page.locator("#countdown")).to_contain_text("wait 2 s")
    expect(again).to_have_attribute("aria-disabled", "true")
    again.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#failure")).to_be_visible()
    page.unroute("**/v1/verdicts")
    expect(again).to_have_attribute("aria-disabled", "false")
    page.keyboard.press("Enter")
    expect(_part(page, "request")).to_contain_text("Safe")


def test_the_key_is_asked_for_and_stays_in_the_tab(
    serve: Callable[..., Served], visit: Callable[..., Any], tmp_path: Path
) -> None:
    from proguard_edge.serve.keys import new_key

    key = new_key(tmp_path / "keys", "page")
    page = visit(serve("--api-keys", str(tmp_path / "keys")).url)
    field = page.get_by_label("API key")
    expect(page.locator("#state-word")).to_have_text("needs a key")
    _judge(page, SAFE)
    expect(page.locator("#failure-status")).to_have_text("401 ApiKeyError")
    expect(field).to_be_focused()

    for wrong, said in (("ключ", "letters, digits and dashes"), ("pge-no", "refused this key")):
        field.fill(wrong)
        field.press("Enter")
        expect(page.locator("#key-hint")).to_contain_text(said)
    field.fill(key)
    field.press("Enter")
    expect(page.locator("#key-hint")).to_contain_text("took the key")
    expect(page.get_by_role("button", name="Judge")).to_be_focused()
    page.keyboard.press("Enter")
    expect(_part(page, "request")).to_contain_text("Safe")
    expect(page.locator("#state-word")).to_have_text("ready")
    assert page.evaluate("Object.values(sessionStorage)") == [key]
    assert key not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    assert key not in page.content()

    with page.expect_request("**/v1/unseen/policy") as asked:
        page.evaluate("downloadDraft()")
    assert asked.value.headers["authorization"] == f"Bearer {key}"
    expect(page.locator("#draft-failed")).to_contain_text("no unseen risk was named yet")

    page.reload()
    expect(page.locator("#state-word")).to_have_text("ready")
    page.get_by_role("button", name="Forget key").click()
    expect(page.locator("#state-word")).to_have_text("needs a key")
    assert page.evaluate("sessionStorage.length") == 0


def test_hostile_names_and_texts_stay_texts(starter: Served, visit: Callable[..., Any]) -> None:
    verdict = {
        **{**VERDICT, "id": HOSTILE, "reasoning": HOSTILE, "mode": HOSTILE, "artifact": HOSTILE},
        **{"evaluated": [HOSTILE], "tokens": {HOSTILE: HOSTILE}, "timings_ms": {HOSTILE: 1.0}},
        "category": {"id": HOSTILE, "name": HOSTILE, "in_policy": True, "score": 0.5},
    }
    unsafe = {**STATUS["recent"][1], "id": HOSTILE, "category": HOSTILE, "category_id": HOSTILE}
    status = {
        **{**STATUS, "artifact": {"name": HOSTILE, "digest": HOSTILE}, "modes": [HOSTILE]},
        "recent": [unsafe, {"id": HOSTILE, "time": 1.0, "error": HOSTILE}],
    }
    policy = {
        **{"name": HOSTILE, "title": HOSTILE, "version": HOSTILE, "digest": HOSTILE},
        "categories": [{"id": HOSTILE, "name": HOSTILE, "description": HOSTILE}],
    }
    group = {"name": HOSTILE, "count": 2, "names": [[HOSTILE, 1], [f"{HOSTILE}2", 1]]}
    page = visit(
        starter.url,
        {
            "v1/status": status,
            "v1/policies": {"policies": [policy], "inline": True},
            "v1/unseen": {"groups": [group]},
            "v1/verdicts": verdict,
        },
    )
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.locator("#files").set_input_files(
        {"name": f"{HOSTILE.replace('/', '')}.png", "mimeType": "image/png", "buffer": PNG}
    )
    _judge(page, HOSTILE)
    expect(page.locator("#reasoning-text")).to_have_text(HOSTILE)
    page.locator("#groups summary").click()
    page.locator("#categories summary").click()
    for shown in ("#category", "#groups", "#recent", "#categories-list", "#artifact-name"):
        expect(page.locator(shown)).to_contain_text(HOSTILE)
    error = {"error": {"message": HOSTILE, "code": HOSTILE}}
    page.route("**/v1/verdicts", _answering({"status": 400, "json": error}))
    _judge(page, HOSTILE)
    expect(page.locator("#failure-message")).to_have_text(HOSTILE)
    assert page.evaluate("window.ran") is None
    assert page.locator("b, [onclick], [onerror], script:not([src])").count() == 0
    # The page's own, and the thumbnail.
    sources = page.locator("img").evaluate_all("all => all.map((each) => each.src.slice(0, 5))")
    assert sources == ["http:", "blob:"]


def test_a_server_that_goes_away_leaves_no_verdict_and_comes_back(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    port = free_port()
    with served(tmp_path / "log.txt", port=port) as server:
        page = visit(server.url)
        _judge(page, SAFE)
        expect(_part(page, "request")).to_contain_text("Safe")
    _judge(page, SAFE)
    expect(page.locator("#failure-message")).to_contain_text("The server gave no answer")
    expect(page.locator("#verdict")).to_be_hidden()
    expect(page.locator("#state-word")).to_have_text("no connection")
    with served(tmp_path / "log.txt", port=port):
        expect(page.locator("#state-word")).to_have_text("ready")
        page.get_by_role("button", name="Try again").click()
        expect(_part(page, "request")).to_contain_text("Safe")


def test_the_keyboard_alone_is_enough(starter: Served, visit: Callable[..., Any]) -> None:
    page = visit(starter.url, {"v1/status": STATUS, "v1/unseen": UNSEEN})
    expect(page.locator("#groups li").first).to_be_visible()
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == wanted:
                style = "getComputedStyle(document.activeElement).outlineStyle"
                assert wanted == "files" or page.evaluate(style) == "solid"
                return
        raise AssertionError(f"no way to {wanted}")

    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the form"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.id === 'user' || document.getElementById('user').focus()")
    page.keyboard.type(SAFE)
    page.keyboard.press("Control+Enter")
    expect(_part(page, "request")).to_contain_text("Safe")
    for control in ("response", "files", "policy", "mode"):
        tab_to(control)
    tab_to("categories-title")
    page.keyboard.press("Enter")
    expect(page.locator("#categories-list")).to_be_visible()
    tab_to("judge")
    page.keyboard.press("Enter")
    expect(page.locator("#working")).to_be_visible()
    expect(_part(page, "request")).to_contain_text("Safe")
    for control in ("clear", "copy-json", "verdict-digest", "JSON"):
        tab_to(control)
    page.keyboard.press("Enter")
    expect(page.locator("#json")).to_be_visible()
    tab_to("pause")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#recent tr")).to_have_count(1)
    tab_to("draft")
    tab_to("gambling 2 names3")
    page.keyboard.press("Space")
    expect(page.get_by_text("illegal gambling")).to_be_visible()


def test_every_control_has_a_name_and_the_page_has_landmarks(
    starter: Served, visit: Callable[..., Any]
) -> None:
    page = visit(starter.url, {"v1/status": STATUS, "v1/unseen": UNSEEN, "v1/verdicts": VERDICT})
    _judge(page, SAFE)
    expect(page.locator("#groups li").first).to_be_visible()
    tree = page.locator("body").aria_snapshot()
    for landmark in ("banner", "main", 'region "Content"', 'region "Verdict"', 'region "Recent"'):
        assert f"- {landmark}" in tree
    nameless = re.findall(
        r"^ *- (?:button|textbox|combobox|radio|region|table)(?: \[.*)?:?$", tree, re.M
    )
    assert nameless == []


def test_recent_requests_are_filtered_and_unseen_names_unfold(
    starter: Served, visit: Callable[..., Any]
) -> None:
    page = visit(starter.url, {"v1/status": STATUS, "v1/unseen": UNSEEN})
    rows = page.locator("#recent tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("no verdict")
    expect(rows.nth(1)).to_contain_text("not in the policy a risk1.50 s")
    expect(rows.nth(2)).to_contain_text("safe<0.001")
    page.get_by_text("Unsafe", exact=True).click()
    expect(rows).to_have_count(1)
    page.get_by_text("Errors", exact=True).last.click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("BusyError")
    expect(page.locator("#tile-p95")).to_have_text("1.50 s")
    page.get_by_text("gambling 2 names").click()
    expect(page.get_by_text("illegal gambling")).to_be_visible()


def test_a_hidden_or_paused_page_does_not_ask(starter: Served, visit: Callable[..., Any]) -> None:
    page, asked = visit(starter.url), []
    expect(page.locator("#state-word")).to_have_text("ready")
    page.on("request", lambda request: asked.append(request.url))
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    page.wait_for_timeout(200)
    asked.clear()
    page.wait_for_timeout(2500)
    assert asked == []
    with page.expect_request("**/v1/status"):
        page.evaluate(hide, False)
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(200)
    asked.clear()
    page.wait_for_timeout(2500)
    assert asked == []
    with page.expect_request("**/v1/status"):
        page.get_by_role("button", name="Resume").click()


def test_files_are_dropped_and_pasted(starter: Served, visit: Callable[..., Any]) -> None:
    page = visit(starter.url, {"v1/verdicts": VERDICT})
    give = """([selector, kind, name, type, bytes]) => {
        const given = new DataTransfer();
        given.items.add(new File([new Uint8Array(bytes)], name, {type}));
        const event = kind === "paste"
            ? new ClipboardEvent(kind, {clipboardData: given, bubbles: true, cancelable: true})
            : new DragEvent(kind, {dataTransfer: given, bubbles: true, cancelable: true});
        return document.querySelector(selector).dispatchEvent(event);
    }"""
    dropped = ["main", "drop", "a.png", "image/png", list(PNG)]
    assert page.evaluate(give, dropped) is False
    page.evaluate(give, ["#user", "paste", "b.png", "image/png", list(PNG)])
    page.evaluate(give, ["#response", "drop", "c.txt", "text/plain", list(b"an answer")])
    page.evaluate(give, ["#drop", "drop", "d.tiff", "image/tiff", list(b"II*")])
    expect(page.locator("#pictures li")).to_have_count(3)
    expect(page.locator("#pictures li").nth(2).locator("svg").first).to_be_visible()
    expect(page.get_by_label("Agent’s response")).to_have_value("an answer")
    with page.expect_request("**/v1/verdicts") as sent:
        page.get_by_role("button", name="Judge").click()
    body = sent.value.post_data_json
    png = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert body["image"] == [png, png, "data:image/tiff;base64,SUkq"]
    assert body["response"] == "an answer"
    assert "user" not in body


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(scheme: str, starter: Served, visit: Callable[..., Any]) -> None:
    routes = {"v1/status": STATUS, "v1/unseen": UNSEEN, "v1/verdicts": VERDICT}
    page = visit(starter.url, routes, color_scheme=scheme)

    def check(state: str) -> None:
        worst = page.evaluate(CONTRAST)
        assert worst["ratio"] >= ENOUGH_CONTRAST, (state, worst)

    expect(page.locator("#groups li").first).to_be_visible()
    page.evaluate("showKeyForm(true)")
    for summary in page.locator("summary:visible").all():
        summary.click()
    page.mouse.move(0, 0)
    check("no verdict yet")
    _judge(page, SAFE)
    expect(page.locator("#verdict")).to_be_visible()
    page.locator("#verdict details summary").last.click()
    check("a verdict; the pointer is over a control")
    page.get_by_label("User").fill(UNSAFE)
    check("a stale verdict")
    page.route("**/v1/status", lambda route: route.abort())
    page.route(
        "**/v1/verdicts", _answering({"status": 429, "json": {}, "headers": {"Retry-After": "60"}})
    )
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("#countdown")).to_be_visible()
    expect(page.locator("#state-word")).to_have_text("no connection")
    check("an error, and no connection")
    page.get_by_label("User").fill(SAFE)
    check("a stale error")
    page.route("**/v1/verdicts", lambda _: None)
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("#working")).to_be_visible()
    check("at work")


def test_a_chosen_theme_stays_and_the_systems_comes_back(
    starter: Served, visit: Callable[..., Any]
) -> None:
    page = visit(starter.url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    theme = page.get_by_role("button", name="Theme")
    theme.click()
    expect(theme).to_contain_text("light")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    theme.click()
    theme.click()
    expect(theme).to_contain_text("auto")
    assert page.evaluate(ground) == dark
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) == light


@pytest.mark.parametrize(("width", "pixels"), [(320, 16), (640, 32), (1280, 32)])
def test_nothing_is_cut_off_on_a_narrow_screen_or_with_large_text(
    width: int, pixels: int, starter: Served, visit: Callable[..., Any]
) -> None:
    """320 pixels are 1280 at 400 %; `pixels` is the size of 1 rem (16: not enlarged)."""
    long_name = {**VERDICT, "category": {**VERDICT["category"], "name": "x" * 300}}
    routes = {"v1/status": STATUS, "v1/unseen": UNSEEN, "v1/verdicts": long_name}
    page = visit(starter.url, routes, viewport={"width": width, "height": 800})
    page.evaluate(f"document.documentElement.style.fontSize = '{pixels * 0.9375}px'")
    _judge(page, SAFE)
    expect(page.locator("#groups li").first).to_be_visible()
    page.get_by_text("JSON", exact=True).last.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = """() => [...document.querySelectorAll("button, textarea, h2, dt, dd, .part")]
        .filter((each) => each.checkVisibility())
        .filter((each) => {
            const {left, right} = each.getBoundingClientRect();
            return left < 0 || right > innerWidth || each.scrollWidth > each.clientWidth + 1;
        }).map((each) => each.id || each.className || each.textContent)"""
    assert page.evaluate(beyond) == []


def test_who_wants_no_motion_gets_none(starter: Served, visit: Callable[..., Any]) -> None:
    page = visit(starter.url, reduced_motion="reduce")
    page.route("**/v1/verdicts", lambda _: None)
    _judge(page, SAFE)
    expect(page.locator("#working")).to_be_visible()
    spinner = "getComputedStyle(document.querySelector('.spinner')).animationName"
    assert page.evaluate(spinner) == "none"
