"""Calibration sets: every kind of row is there, and the draw depends on rows and seed alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from proguard_edge.calibration.sets import CalibrationSet, draw, render, stratum
from proguard_edge.errors import InputError
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.template import Template
from proguard_edge.train.rows import Row, RowError
from proguard_edge.train.sft_data import SampleBuilder

BLANK = Row("r", "test", "none", None, None, None, None, None, None)


def row(number: int, label: str | None = "safe", category: str | None = None) -> Row:
    text = f"text number {number}"
    return replace(BLANK, id=f"r{number}", user=text, request_label=label, category=category)


def kinds(labels: list[tuple[str | None, str | None]]) -> list[Row]:
    return [row(number, *kind) for number, kind in enumerate(labels)]


LABELS = st.sampled_from(
    [("safe", None), (None, None), *(("unsafe", f"C{n}") for n in range(1, 6)), ("unsafe", None)]
)
ROWS = st.lists(LABELS, min_size=1, max_size=60).map(kinds)
SIZE = st.integers(1, 70)
SEED = st.integers(0, 5)


@settings(deadline=None)
@given(ROWS, SIZE, SEED)
def test_the_size_is_respected_and_no_row_comes_twice(rows: list[Row], size: int, seed: int):
    chosen = draw(rows, size, seed)
    ids = [r.id for r in chosen.rows]
    assert len(ids) == min(size, len(rows)) == len(set(ids))


@settings(deadline=None)
@given(ROWS, SIZE, SEED)
def test_every_stratum_is_there_when_the_size_allows(rows: list[Row], size: int, seed: int):
    there = {stratum(r) for r in draw(rows, size, seed).rows}
    strata = {stratum(r) for r in rows}
    assert len(there) >= min(size, len(strata))
    if size >= len(strata):
        assert there == strata


@settings(deadline=None)
@given(ROWS, SIZE, SEED, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: list[Row], size: int, seed: int, random):
    mixed = list(rows)
    random.shuffle(mixed)
    assert draw(mixed, size, seed) == draw(rows, size, seed)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_another_seed_draws_other_rows(seed: int):
    # Of 600 rows 200: that two draws agree has a chance below 1e-100.
    rows = [row(number) for number in range(600)]
    one, other = draw(rows, 200, seed), draw(rows, 200, seed + 1)
    assert {r.id for r in one.rows} != {r.id for r in other.rows}
    assert one.digest != other.digest


@settings(deadline=None)
@given(ROWS, st.data())
def test_one_letter_changes_the_digest(rows: list[Row], data: st.DataObject):
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = list(rows)
    changed[place] = replace(rows[place], user=f"{rows[place].user}x")
    assert draw(changed, 60, 0).digest != draw(rows, 60, 0).digest


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_one_byte_of_a_picture_changes_the_digest(tmp_path: Path, data: st.DataObject):
    picture = tmp_path / "p.bin"
    content = bytearray(data.draw(st.binary(min_size=1, max_size=64)))
    rows = [replace(BLANK, image=picture, request_label="unsafe")]
    picture.write_bytes(content)
    before = draw(rows, 1, 0).digest
    assert draw(rows, 1, 0).digest == before
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    picture.write_bytes(content)
    assert draw(rows, 1, 0).digest != before


def test_labels_share_alike_and_categories_within_a_label():
    safe = [("safe", None)] * 900
    unsafe = [("unsafe", f"C{n}") for n in (1, 2) for _ in range(100)]
    counts = draw(kinds([*safe, *unsafe]), 40, 0).counts
    assert counts == {"text": {"safe": {"–": 20}, "unsafe": {"C1": 10, "C2": 10}}}


def test_what_a_rare_stratum_cannot_fill_goes_to_the_others():
    rows = kinds([("safe", None)] * 3 + [("unsafe", "C1")] * 100)
    assert draw(rows, 50, 0).counts == {"text": {"safe": {"–": 3}, "unsafe": {"C1": 47}}}


def test_rows_of_one_id_or_of_the_same_words_count_once():
    again = replace(row(1), user="text number 5")
    alike = replace(row(2), user="  TEXT number, 1!")
    answered = replace(row(3), user="text number 1", response="an answer")
    assert len(draw([row(1), again], 10, 0).rows) == 1
    assert [r.id for r in draw([alike, row(1)], 10, 0).rows] == ["r1"]
    assert sorted(r.id for r in draw([row(1), answered], 10, 0).rows) == ["r1", "r3"]


def test_the_same_question_about_two_pictures_is_two_rows(tmp_path: Path):
    rows = []
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{name}.png")
        image = tmp_path / f"{name}.png"
        rows.append(replace(BLANK, id=name, user="What is it?", image=image, request_label="safe"))
    assert sorted(r.id for r in draw(rows, 10, 0).rows) == ["a", "b"]


def test_a_picture_that_is_not_there_is_an_error_that_names_its_row(tmp_path: Path):
    lost = replace(row(7), image=tmp_path / "lost.png")
    with pytest.raises(RowError, match=r"row r7: .*lost\.png cannot be read"):
        draw([lost], 1, 0)


def test_a_set_of_no_size_is_refused():
    with pytest.raises(ValueError, match="0 rows"):
        draw([row(1)], 0, 0)


def test_the_manifest_entry_is_plain_data():
    found = draw(kinds([("safe", None), ("unsafe", "C1S1")]), 2, 3).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["rows"], found["seed"], found["sources"]) == (2, 3, {"test": 2})
    assert found["strata"]["text"]["unsafe"] == {"C1S1": 1}
    assert len(found["digest"]) == 64


@pytest.fixture
def builder(tiny: Path) -> SampleBuilder:
    encoder = PromptEncoder(tiny / "tokenizer.json", Template.named("edge"), Policy.default())
    (end,) = encoder.encode_static("<|im_end|>")
    return SampleBuilder(encoder, None, end)


def test_samples_are_the_prompts_of_the_runtime_with_the_right_answer(builder: SampleBuilder):
    chosen = draw([row(1, "unsafe", "C8S1")], 1, 0)
    (sample,) = render(chosen, builder)
    prompt = builder.encoder.content("text number 1", None)
    head = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]
    assert sample.ids[: len(head)] == head
    answer = "<answer>\nRequest:unsafe\nCategory:C8S1\n</answer>"
    assert builder.encoder.decode(sample.ids[len(head) : -1]) == answer


def test_rows_without_a_sample_are_counted_by_reason(builder: SampleBuilder, tmp_path: Path):
    Image.new("RGB", (30, 30)).save(tmp_path / "p.png")
    rows = [
        row(1),
        row(2, None),
        replace(row(3), user="a\0b"),
        replace(row(4), image=tmp_path / "p.png"),
    ]
    samples = render(draw(rows, 9, 0), builder)
    assert len(samples) == 1
    assert samples.skipped == {
        "nothing to read or no label": 1,
        "TextError": 1,
        "no image processor": 1,
    }


def test_a_category_that_the_policy_lacks_is_left_out_of_the_answer(builder: SampleBuilder):
    (sample,) = render(draw([row(1, "unsafe", "C99S1")], 1, 0), builder)
    assert builder.encoder.decode(sample.ids).endswith("Request:unsafe")


def test_a_set_of_which_nothing_can_be_rendered_is_an_error(builder: SampleBuilder):
    with pytest.raises(InputError, match="1 nothing to read or no label"):
        render(CalibrationSet((row(1, None),), 0, ""), builder)
