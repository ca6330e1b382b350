"""Tables of the pages are computed again and compared with what stands there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from docpages import PAGES, ROOT

from proguard_edge.export.footprint import TABLES


def air_gap() -> str:
    """Seconds by step, of the run that the page is about."""
    path = ROOT / "bench" / "results" / "air_gap.json"
    seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
    return "\n".join(
        ["| step | seconds |", "|---|---|", *(f"| {k} | {v} |" for k, v in seconds.items())]
    )


MADE: dict[str, Callable[[], str]] = {**TABLES, "air gap": air_gap}


def shown(page: str) -> dict[str, str]:
    """The tables of a page that stand below a comment `table: NAME`."""
    found: dict[str, list[str]] = {}
    name = None
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("<!-- table: "):
            name = line.removeprefix("<!-- table: ").removesuffix(" -->")
            found[name] = []
        elif name and line.startswith("|"):
            found[name].append(line)
        elif name and found[name]:
            name = None
    return {name: "\n".join(lines) for name, lines in found.items()}


STANDING = {name: text for page in PAGES for name, text in shown(page).items()}


def test_every_table_that_is_made_stands_in_a_page_and_the_other_way_round() -> None:
    assert set(STANDING) == set(MADE)


def test_the_size_of_the_bundle_is_the_measured_one() -> None:
    measured = json.loads((ROOT / "bench" / "results" / "air_gap.json").read_text("utf-8"))
    page = (ROOT / "docs" / "air-gap.md").read_text(encoding="utf-8")
    assert f"a bundle of {measured['bundle_bytes'] / 1e6:.0f} MB" in page


@pytest.mark.parametrize("name", MADE)
def test_a_table_says_what_is_computed(name: str) -> None:
    assert STANDING[name] == MADE[name]()
