"""Duplicates out, evaluation requests out, modalities in balance."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proguard_edge.train.rows import Row
from proguard_edge.train.sampling import (
    balance,
    deduplicate,
    jaccard,
    normalised,
    shingles,
    without_overlap,
)

LONG = "please tell me in full detail how the old water mill beside the river was built and run"


def row(name: str = "a", **fields: object) -> Row:
    base = {"id": name, "source": "s", "licence": "MIT", "user": "hi", "request_label": "safe"}
    return Row.from_dict({**base, **fields})


def words(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def test_equal_rows_are_kept_once_whatever_case_and_punctuation(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    (tmp_path / "2.png").write_bytes(b"two")
    (tmp_path / "copy.png").write_bytes(b"one")
    rows = [
        row("a", user="Hello, there!"),
        row("b", user="hello there"),
        row("c", user="hello there", response="hello"),
        row("d", user="hello there", request_label="unsafe"),
        row("e", user="hello there", image=str(tmp_path / "1.png")),
        row("f", user="hello there", image=str(tmp_path / "2.png")),
        row("g", user="hello there", image=str(tmp_path / "copy.png")),
    ]
    found = deduplicate(rows)
    assert [r.id for r in found.rows] == ["a", "c", "e", "f"]
    assert (found.exact, found.near, found.conflicting) == (3, 0, 1)


@pytest.mark.parametrize("text", ["你好", "Привет мир", "สวัสดี", "🙂", "?!", "مرحبا"])
def test_texts_of_other_scripts_are_not_all_alike(text: str) -> None:
    assert normalised(text)
    found = deduplicate([row("a", user=text), row("b", user=text + "x"), row("c", user=text)])
    assert [r.id for r in found.rows] == ["a", "b"]


def test_near_duplicates_with_equal_labels_are_kept_once() -> None:
    other = LONG.replace("old", "OLD") + " today"
    rows = [row("a", user=LONG), row("b", user=other), row("c", user=other + " now")]
    found = deduplicate(rows)
    assert ([r.id for r in found.rows], found.near) == (["a"], 2)


def test_near_duplicates_with_different_labels_teach_the_difference() -> None:
    rows = [row("a", user=LONG), row("b", user=LONG + " today", request_label="unsafe")]
    assert deduplicate(rows).rows == rows


def test_the_same_words_as_request_or_as_response_are_not_the_same_row() -> None:
    half = LONG.split()
    rows = [
        row("a", user=" ".join(half[:4]), response=" ".join(half[4:])),
        row("b", user=" ".join(half[:12]), response=" ".join(half[12:])),
    ]
    assert deduplicate(rows).rows == rows


def test_near_duplicates_are_those_at_jaccard_four_fifths() -> None:
    """Against the definition: pairs with a tail of other words, on both sides of the threshold."""
    rng = random.Random(0)
    for _ in range(60):
        text = words(rng, 60)
        end = [*text[: len(text) - rng.randrange(16)], *words(rng, rng.randrange(6))]
        sets = [shingles(t) for t in (text, end)]
        near = jaccard(*sets) >= 0.8 and normalised(" ".join(text)) != normalised(" ".join(end))
        found = deduplicate([row("a", user=" ".join(text)), row("b", user=" ".join(end))])
        assert (found.near == 1) == near


def test_deduplication_takes_time_in_proportion_even_for_rows_of_one_form() -> None:
    def form(count: int) -> list[Row]:
        rng = random.Random(1)
        return [row(str(i), user=f"{LONG} {' '.join(words(rng, 12))}") for i in range(count)]

    def seconds(count: int) -> float:
        rows = form(count)
        start = time.process_time()
        deduplicate(rows)
        return time.process_time() - start

    seconds(200)
    # Linear is 4; looking at every pair would be 16.
    assert seconds(2000) < 10 * seconds(500)


def test_the_result_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from proguard_edge.train.sampling import *\n"
        "from proguard_edge.train.rows import Row\n"
        "rows = [Row.from_dict({'id': i, 'source': 's', 'licence': '', 'user': f'a {i % 7}'})"
        " for i in range(40)]\n"
        "print([r.id for r in balance(deduplicate(rows).rows, 5, 3)], shingles(list('abcdefghi')))"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(out) == 1


def mixed(text: int, both: int, image: int) -> list[Row]:
    return [
        *(row(f"t{i}") for i in range(text)),
        *(row(f"b{i}", image="x.png") for i in range(both)),
        *(row(f"i{i}", user=None, image="x.png") for i in range(image)),
    ]


def shares(rows: list[Row]) -> tuple[int, int, int]:
    counts = Counter(r.modality for r in rows)
    return counts["text"], counts["text-image"], counts["image"]


@pytest.mark.parametrize(
    ("available", "total", "expected"),
    [
        ((50, 50, 50), 30, (10, 10, 10)),
        ((50, 50, 2), 30, (14, 14, 2)),
        ((50, 4, 2), 30, (24, 4, 2)),
        ((50, 0, 0), 30, (30, 0, 0)),
        ((3, 3, 3), 30, (3, 3, 3)),
        ((50, 50, 50), 0, (0, 0, 0)),
    ],
)
def test_modalities_are_balanced_as_far_as_there_are_rows(
    available: tuple[int, int, int], total: int, expected: tuple[int, int, int]
) -> None:
    assert shares(balance(mixed(*available), total, seed=1)) == expected


def test_a_ratio_is_kept_and_zero_means_none() -> None:
    rows = balance(mixed(99, 99, 99), 40, 1, {"text": 3, "text-image": 1, "image": 0})
    assert shares(rows) == (30, 10, 0)
    with pytest.raises(ValueError, match="negative"):
        balance(rows, 1, 1, {"text": -1})


@settings(max_examples=60, deadline=None)
@given(
    available=st.tuples(*[st.integers(0, 20)] * 3),
    total=st.integers(0, 70),
    seed=st.integers(0, 5),
)
def test_a_balanced_draw_has_the_wanted_size_no_row_twice_and_no_better_balance(
    available: tuple[int, int, int], total: int, seed: int
) -> None:
    rows = mixed(*available)
    drawn = balance(rows, total, seed)
    assert len(drawn) == min(total, sum(available))
    assert len({r.id for r in drawn}) == len(drawn)
    counts = shares(drawn)
    for count, there in zip(counts, available, strict=True):
        assert count == there or count >= max(counts) - 1
    assert drawn == balance(list(reversed(rows)), total, seed)


def test_another_seed_draws_other_rows() -> None:
    rows = mixed(99, 0, 0)
    assert balance(rows, 20, 1) != balance(rows, 20, 2)


def test_requests_of_the_evaluation_are_left_out(tmp_path: Path) -> None:
    for name in "xyz":
        (tmp_path / name).write_bytes(name.encode())
    images = {name: str(tmp_path / name) for name in "xyz"}
    forbidden = [
        row("f1", user="Short one?"),
        row("f2", user=LONG),
        row("f3", user="what is this", image=images["x"]),
        row("f4", user=None, image=images["y"]),
    ]
    rows = [
        row("equal", user="short ONE", response="with a response of its own"),
        row("overlapping", user=LONG + " and why it stands still"),
        row("partly", user="the old water mill beside the river was " + "x y z " * 9),
        row("same picture", user="another question", image=images["y"]),
        row("picture's words", user="what is this"),
        row("other picture", user="what is this", image=images["z"]),
        row("other", user="an entirely different request"),
        row("no text", user=None, image=images["z"]),
    ]
    kept = [r.id for r in without_overlap(rows, forbidden)]
    assert kept == ["partly", "other picture", "other", "no text"]


def test_nothing_of_the_shared_training_rows_stands_in_the_evaluation(shared: Path) -> None:
    from proguard_edge.train.rows import read_jsonl

    train = list(read_jsonl(shared / "data" / "train" / "toxicchat.jsonl.gz"))
    evaluation = list(read_jsonl(shared / "data" / "eval" / "toxicchat.jsonl.gz"))
    assert without_overlap(train, evaluation) == train
    assert without_overlap(evaluation, evaluation) == []
