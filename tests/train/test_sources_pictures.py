"""Sets with pictures: what belongs to the request, where the pictures come from."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from proguard_edge.train.rows import Row
from proguard_edge.train.sources import MissingPictureError, RowError, read_rows


def picture(colour: str, fmt: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, fmt)
    return buffer.getvalue()


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def proguard_record(modality: str = "text", turns: object = None, **fields: object) -> dict:
    turns = [{"role": "user", "content": "hello"}] if turns is None else turns
    return {
        "modality": modality,
        "message": json.dumps(turns),
        "query_label": "unsafe",
        "response_label": "safe",
        "category": "C8S1",
        "images": [],
        **fields,
    }


def only(path: Path, **options: object) -> Row:
    (row,) = read_rows(path, **options)  # type: ignore[arg-type]
    return row


def test_proguard_parquet_pictures_are_written_by_their_digest(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = {"bytes": picture("red"), "path": "0.png"}
    records = [
        proguard_record(
            "text-image",
            [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "no"}],
            images=[data],
        ),
        proguard_record("image", [], images=[data], response_label=None),
        proguard_record("text", query_label="safe", category="None"),
    ]
    (tmp_path / "data").mkdir()
    shard = tmp_path / "data" / "train-00000-of-00001.parquet"
    parquet.write_table(arrow.Table.from_pylist(records), shard)
    rows = list(read_rows(tmp_path, images=tmp_path / "out"))
    assert [row.modality for row in rows] == ["text-image", "image", "text"]
    name = hashlib.sha256(data["bytes"]).hexdigest() + ".png"
    assert {row.image for row in rows[:2]} == {tmp_path / "out" / name}
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    both, alone, text = rows
    assert (both.user, both.response, both.response_label) == ("what?", "no", "safe")
    assert (alone.user, alone.response, alone.response_label) == (None, None, None)
    assert (text.request_label, text.response_label, text.category) == ("safe", None, None)


def test_a_longer_conversation_becomes_one_text_before_the_last_answer(tmp_path: Path) -> None:
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    turns = [{"role": role, "content": content} for role, content in said]
    row = only(write_lines(tmp_path / "x.jsonl", [proguard_record("text", turns)]))
    assert (row.user, row.response) == ("User: a\nAgent: b\nUser: c", "d")


@pytest.mark.parametrize(
    ("given", "category", "source_category"),
    [
        ("C8S1", "C8S1", "C8S1"),
        ("C8S1: Weapons", "C8S1", "C8S1: Weapons"),
        ("illegal drugs and narcotics", "C8S3", "illegal drugs and narcotics"),
        ("Something else", None, "Something else"),
        ("Safe", None, None),
        (None, None, None),
    ],
)
def test_proguard_categories_come_as_ids_or_names(
    tmp_path: Path, given: str | None, category: str | None, source_category: str | None
) -> None:
    row = only(write_lines(tmp_path / "x.jsonl", [proguard_record(category=given)]))
    assert (row.category, row.source_category) == (category, source_category)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"message": "no json"}, "message is not JSON"),
        ({"message": "[]"}, "no user turn"),
        ({"message": '[{"role": "system", "content": "x"}]'}, "neither the user's"),
        ({"message": '[{"role": "user", "content": 3}]'}, "content is not a text"),
        ({"message": '{"role": "user"}'}, "not a list of turns"),
        ({"category": "C12S1"}, "not in the policy"),
        ({"query_label": "harmless"}, "query_label is 'harmless'"),
        ({"modality": "video"}, "modality is 'video'"),
        ({"modality": "image"}, "there is no picture"),
        ({"images": ["a.png", "b.png"]}, "2 pictures"),
        ({"images": ["there.png"]}, "modality is text, but there is a picture"),
        ({"images": [3]}, "given as int"),
    ],
)
def test_a_malformed_proguard_row_is_an_error(tmp_path: Path, fields: dict, message: str) -> None:
    (tmp_path / "there.png").write_bytes(picture("red"))
    file = write_lines(tmp_path / "x.jsonl", [proguard_record(), proguard_record(**fields)])
    with pytest.raises(RowError, match="line 2") as error:
        list(read_rows(file))
    assert message in str(error.value)


def test_llavaguard_finds_downloaded_pictures_by_the_name_in_their_url(tmp_path: Path) -> None:
    (tmp_path / "smid").mkdir()
    (tmp_path / "smid" / "b1.jpg").write_bytes(picture("red", "JPEG"))
    (tmp_path / "a.png").write_bytes(picture("blue"))
    (tmp_path / "test.csv").write_text(
        "id,url,rating,category\n"
        "1,https://example.org/x/b1.jpg?download=true,Unsafe,O8: Animal Cruelty\n"
        "2,https://example.org/x/b1.jpg,Safe,O8: Animal Cruelty\n"
        "3,a.png,Safe,NA: None applying\n"
    )
    rows = list(read_rows(tmp_path))
    assert [r.image and r.image.name for r in rows] == ["b1.jpg", "b1.jpg", "a.png"]
    # The second row of a picture was rated under a policy that allows what it shows.
    assert [(r.request_label, r.category) for r in rows] == [
        ("unsafe", "C9S2"),
        (None, None),
        ("safe", None),
    ]
    assert {row.modality for row in rows} == {"image"}


def test_beavertails_v_labels_the_response_to_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    base = {"question": "q", "image": "a.png", "category": "animal_abuse", "response": "r"}
    records = [{**base, "is_response_safe": word} for word in ("yes", "no")]
    rows = list(read_rows(write_lines(tmp_path / "x.jsonl", records)))
    assert [(r.request_label, r.response_label, r.category) for r in rows] == [
        (None, "safe", None),
        (None, "unsafe", "C9S2"),
    ]
    assert {row.modality for row in rows} == {"text-image"}


@pytest.mark.parametrize("outside", ["../secret.png", "{absolute}", "link.png"])
def test_a_data_file_cannot_name_a_picture_outside_its_folder(tmp_path: Path, outside: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture("red"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    given = outside.replace("{absolute}", str(secret))
    file = write_lines(folder / "x.jsonl", [{"image": given, "rating": "Safe", "category": "NA"}])
    with pytest.raises(RowError, match="no file of that name"):
        list(read_rows(file))


def test_rows_without_their_picture_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    records = [{"image": f"{n}.png", "rating": "Safe", "category": "NA"} for n in "ab"]
    file = write_lines(tmp_path / "x.jsonl", records)
    with pytest.raises(RowError, match=r"line 2.*'b.png'"):
        list(read_rows(file))
    assert len(list(read_rows(file, skip_missing_images=True))) == 1
    assert issubclass(MissingPictureError, ValueError)


def test_two_pictures_of_the_wanted_name_are_no_answer(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(picture("red"))
    record = {"url": "https://x/a.png", "rating": "Safe", "category": "NA"}
    with pytest.raises(RowError, match="2 files of that name"):
        list(read_rows(write_lines(tmp_path / "x.jsonl", [record])))


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_written_pictures_get_the_suffix_of_their_bytes(tmp_path: Path, fmt: str) -> None:
    from proguard_edge.train.sources.pictures import Pictures

    path = Pictures(tmp_path, tmp_path / "out").get({"bytes": picture("red", fmt), "path": "x.exe"})
    assert path is not None
    with Image.open(path) as image:
        assert image.format == fmt
    assert path.suffix == {"JPEG": ".jpg"}.get(fmt, f".{fmt.lower()}")


def test_bytes_that_are_no_picture_or_have_no_folder_are_an_error(tmp_path: Path) -> None:
    from proguard_edge.train.sources.pictures import Pictures

    with pytest.raises(ValueError, match="not a JPEG"):
        Pictures(tmp_path, tmp_path).get(b"MZ program")
    with pytest.raises(ValueError, match="name a folder"):
        Pictures(tmp_path).get(picture("red"))
