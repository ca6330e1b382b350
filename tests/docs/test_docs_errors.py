"""Every message that docs/errors.md and docs/air-gap.md explain can still be raised; links lead
somewhere."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from docpages import PAGES, ROOT

from proguard_edge import errors

SOURCES = ("proguard_edge", "export", "calibration", "train", "bench")
QUOTING = ("docs/errors.md", "docs/air-gap.md")
_CELL = re.compile(r"^\| (`[^|]+`)")
_LINK = re.compile(r"\]\(([^)#\s]*)(#[\w-]+)?\)")
# Commands, and what another program says.
FOREIGN = ("proguard-edge-bundle.pyz: FAILED", "sha256sum", "doctor")


@cache
def said() -> tuple[str, ...]:
    """Every text of the sources but docstrings, with … for what is filled in."""
    found: set[str] = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            described = {node.value for node in tree if isinstance(node, ast.Expr)}
            for node in tree:
                if node in described:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                    found.add("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value.replace("{}", "…"))
    return tuple(found)


def quoted() -> list[str]:
    """The messages of the pages: what stands in backquotes in a table's first cell."""
    found: list[str] = []
    for page in QUOTING:
        inside = False
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            if line.startswith("| message") or line.startswith("| what you see"):
                inside = True
            elif not line.startswith("|"):
                inside = False
            elif inside and (match := _CELL.match(line)):
                found += re.findall(r"`([^`]+)`", match[1])
    return [message for message in found if message not in FOREIGN]


def can_be_said(message: str) -> bool:
    """Whether a text of the sources has the message's fixed parts, in their order."""
    # What the pages name is filled in by the source, and the other way round.
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    pattern = re.compile(".*".join(pieces))
    return any(pattern.search(text) for text in said())


@pytest.mark.parametrize("message", quoted())
def test_a_message_that_is_explained_is_one_that_is_said(message: str) -> None:
    assert can_be_said(message)


def test_a_message_that_nobody_says_is_found() -> None:
    assert not can_be_said("the artifact is tired …; let it rest")
    assert len(quoted()) > 50


def test_the_statuses_of_the_page_are_those_of_the_server() -> None:
    pytest.importorskip("fastapi")
    from proguard_edge.serve.failures import STATUS

    told: dict[str, int] = {}
    for line in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^\| (\d{3}) \| ([^|]+)\|", line):
            told |= dict.fromkeys(re.findall(r"`(\w+)`", match[2]), int(match[1]))
    theirs = {kind.__name__: status for kind, status in STATUS}
    assert told.pop("ApiKeyError") == 401
    assert told == {name: theirs[name] for name in told}
    # Two that are bases of the others; the page names what derives from them.
    assert set(theirs) - set(told) == {"ServiceError", "ProGuardEdgeError"}
    assert all(hasattr(errors, name) for name in told)


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in _LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {"#" + re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}
            assert anchor in slugs, f"{page}: {target}{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index
