"""What a training row teaches: which positions, which tokens."""

from __future__ import annotations

import random

import pytest

from proguard_edge.train.examples import (
    IGNORE,
    Prompting,
    batches,
    build_example,
    select_rows,
)
from proguard_edge.train.rows import Row

PROMPTING = Prompting(
    content=lambda user, response: [ord(c) for c in f"{user}|{response or ''}>"],
    encode=lambda text: [ord(c) for c in text],
    end_id=0,
)


def row(**fields: object) -> Row:
    base = {"id": "a", "source": "s", "licence": "MIT", "user": "hi", "request_label": "safe"}
    return Row.from_dict({**base, **fields})


def taught(example: object, at: int) -> tuple[str, str]:
    """The text that the model has read at a position, and the token it should say next."""
    ids, targets = example.ids, example.targets  # type: ignore[attr-defined]
    return "".join(map(chr, ids[: at + 1])), chr(targets[at])


@pytest.mark.parametrize("label", ["safe", "unsafe"])
def test_a_request_teaches_its_label_behind_the_forced_text(label: str) -> None:
    example = build_example(row(request_label=label), PROMPTING, random.Random(1))
    assert example is not None
    (at,) = example.label_at
    assert taught(example, at) == ("hi|>" + "<answer>\nRequest:", label[0])


def test_an_unlabelled_request_is_no_target_but_stands_in_the_answer() -> None:
    said = set()
    for seed in range(20):
        raw = row(request_label=None, response="no", response_label="safe")
        example = build_example(raw, PROMPTING, random.Random(seed))
        assert example is not None
        assert len([t for t in example.targets if t != IGNORE]) == 1
        (at,) = example.label_at
        read, target = taught(example, at)
        assert (read[-9:], target) == ("Response:", "s")
        said.add("Request:unsafe" in read)
    assert said == {True, False}


def test_a_known_category_is_taught_to_the_end_of_the_answer() -> None:
    raw = row(request_label="unsafe", category="C8S1")
    example = build_example(raw, PROMPTING, random.Random(1))
    assert example is not None
    spelled = "".join(chr(t) for t in example.targets if t != IGNORE)
    assert spelled == "unsafe\nCategory:C8S1\n</answer>\0"


@pytest.mark.parametrize(
    "fields",
    [{"request_label": None}, {"user": "  "}, {"user": None}, {"request_label": None, "user": "x"}],
)
def test_a_row_without_label_or_text_teaches_nothing(fields: dict[str, object]) -> None:
    assert build_example(row(**fields), PROMPTING, random.Random(0)) is None


def test_a_label_that_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="maybe"):
        row(request_label="maybe")


def test_batches_hold_every_example_once_and_keep_the_budget() -> None:
    rng = random.Random(0)
    rows = [row(id=str(i), user="x" * rng.randint(1, 60)) for i in range(200)]
    examples = [e for r in rows if (e := build_example(r, PROMPTING, rng))]
    made = batches(examples, 600, seed=3)
    assert sorted(e.id for batch in made for e in batch) == sorted(e.id for e in examples)
    assert all(max(len(e.ids) for e in batch) * len(batch) <= 600 for batch in made)


def test_caps_bound_a_source_and_the_draw_is_seeded() -> None:
    rows = [row(id=str(i), source="big" if i % 2 else "small") for i in range(100)]
    first, again = (select_rows(rows, {"big": 7}, seed=1) for _ in range(2))
    assert [r.id for r in first] == [r.id for r in again]
    assert sum(r.source == "big" for r in first) == 7
    assert sum(r.source == "small" for r in first) == 50
