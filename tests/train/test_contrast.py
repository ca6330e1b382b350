"""The contrast rows: reproducible, well formed, balanced, varied, apart from the eval sets."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from proguard_edge.train.contrast import CAP, contrast_rows, normalise, template_of

EVAL = Path(__file__).parents[3] / "shared" / "data" / "eval"

FIELDS = [
    "id", "source", "licence", "modality", "user", "response", "image",
    "request_label", "response_label", "category", "source_category",
]  # fmt: skip

# Number of subcategories of C1 … C11 in the ProGuard taxonomy.
SUBCATEGORIES = [3, 2, 3, 2, 2, 2, 3, 3, 3, 3, 2]
IDS = {f"C{i}S{j}" for i, n in enumerate(SUBCATEGORIES, 1) for j in range(1, n + 1)}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return contrast_rows()


def test_same_seed_gives_the_same_rows(rows):
    assert contrast_rows(0) == rows
    assert contrast_rows(1) != rows


def test_every_row_has_the_unified_schema(rows):
    for row in rows:
        assert list(row) == FIELDS
        assert (row["source"], row["modality"]) == ("contrast", "text")
        assert row["licence"] == "Apache-2.0"
        assert row["image"] is None
        assert row["user"].strip() == row["user"] != ""
        assert row["request_label"] in ("safe", "unsafe")
        assert (row["response"] is None) == (row["response_label"] is None)
        assert row["response_label"] in ("safe", "unsafe", None)


def test_no_slot_is_left_unfilled(rows):
    for row in rows:
        text = row["user"] + (row["response"] or "")
        assert not set("{}|") & set(text), row["id"]
        assert "=>" not in text, row["id"]


def test_a_category_stands_on_unsafe_rows_and_only_there(rows):
    assert len(IDS) == 28
    for row in rows:
        unsafe = "unsafe" in (row["request_label"], row["response_label"])
        assert (row["category"] is not None) == unsafe, row["id"]
        assert row["category"] is None or row["category"] in IDS, row["id"]


def test_every_subcategory_is_covered(rows):
    counts = Counter(row["category"] for row in rows if row["category"])
    # C11S1 stays small on purpose: abstract wording only.
    assert {name for name in IDS - {"C11S1"} if counts[name] < 25} == set()
    assert counts["C11S1"] > 0


def test_requests_are_balanced(rows):
    safe = sum(row["request_label"] == "safe" for row in rows) / len(rows)
    assert 0.50 <= safe <= 0.60


def test_there_are_enough_rows_and_templates(rows):
    assert 3500 <= len(rows) <= 7000
    assert len({template_of(row) for row in rows}) >= 700


def test_ids_and_texts_are_unique(rows):
    assert len({row["id"] for row in rows}) == len(rows)
    texts = {(normalise(row["user"]), normalise(row["response"] or "")) for row in rows}
    assert len(texts) == len(rows)


def test_no_template_exceeds_the_cap(rows):
    assert CAP == 8
    assert max(Counter(template_of(row) for row in rows).values()) <= CAP


def test_no_text_has_two_labels(rows):
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(normalise(row["user"]), set()).add(row["request_label"])
    assert [text for text, found in labels.items() if len(found) > 1] == []


def grams(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


@pytest.mark.skipif(not EVAL.is_dir(), reason="the evaluation data is not here")
def test_no_row_repeats_an_evaluation_request(rows):
    requests = {
        json.loads(line)["user"]
        for path in EVAL.glob("*.jsonl.gz")
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    } - {None, ""}
    texts = {normalise(text) for text in requests} - {""}
    where: dict[tuple[str, ...], set[int]] = {}
    sizes: dict[int, int] = {}
    for number, text in enumerate(sorted(requests)):
        found = grams(text)
        sizes[number] = len(found)
        for gram in found:
            where.setdefault(gram, set()).add(number)
    for row in rows:
        assert normalise(row["user"]) not in texts, row["id"]
        own = grams(row["user"])
        shared = Counter(number for gram in own for number in where.get(gram, ()))
        for number, count in shared.items():
            # Half of either text: a short one inside a long one counts too.
            assert count / min(len(own), sizes[number]) <= 0.5, row["id"]
