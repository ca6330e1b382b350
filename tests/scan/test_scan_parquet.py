"""Parquet in: rows as in JSONL, and pictures that lie in the rows."""

from __future__ import annotations

import pytest

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

from proguard_edge.errors import InputError  # noqa: E402
from proguard_edge.scan.parquet import count_rows, group_of, read_groups  # noqa: E402
from proguard_edge.scan.sources import look  # noqa: E402


def write(path, rows, **options):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def rows_of(path):
    return [row.row for row in read_groups(path, 0, 0)]


def test_rows_have_the_fields_of_jsonl_and_no_others(tmp_path):
    path = write(
        tmp_path / "rows.parquet",
        [{"id": 7, "user": "hello", "response": "there", "label": "safe"}, {"user": "x"}],
    )
    found = list(read_groups(path, 0, 0))
    assert [row.id for row in found] == ["7", "row-2"]
    assert [row.row for row in found] == [
        {"user": "hello", "response": "there"},
        {"user": "x", "response": None},
    ]
    assert look(path).rows == 2


@pytest.mark.parametrize(
    ("column", "value", "image"),
    [
        ("image", "red.png", "red.png"),
        ("image", ["red.png", "blue.png"], ["red.png", "blue.png"]),
        ("image", b"\x89PNG", b"\x89PNG"),
        ("image", [b"\x89PNG"], [b"\x89PNG"]),
        ("image", {"bytes": b"\x89PNG", "path": "red.png"}, b"\x89PNG"),
        ("image", {"bytes": None, "path": "red.png"}, "red.png"),
        ("images", [{"bytes": b"\x89PNG"}, {"bytes": b"GIF8"}], [b"\x89PNG", b"GIF8"]),
    ],
)
def test_pictures_are_paths_or_bytes_alone_in_lists_or_in_structs(tmp_path, column, value, image):
    path = write(tmp_path / "rows.parquet", [{"user": "look", column: value}])
    assert rows_of(path) == [{"user": "look", "image": image}]


def test_images_beside_an_image_stay_where_the_row_is_refused_for_them(tmp_path):
    path = write(tmp_path / "rows.parquet", [{"image": "a.png", "images": ["b.png"]}])
    assert rows_of(path) == [{"image": "a.png", "images": ["b.png"]}]


def test_a_row_that_cannot_be_decoded_is_an_error_and_its_neighbours_are_read(tmp_path):
    texts = pyarrow.array([b"good", b"caf\xe9", b"fine"], pyarrow.binary())
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, texts.buffers())
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"user": texts}), path)
    first, second, third = rows_of(path)
    assert (first, third) == ({"user": "good"}, {"user": "fine"})
    assert isinstance(second, InputError)
    assert "row 2 cannot be decoded" in str(second)


def test_reading_begins_at_any_row_group(tmp_path):
    rows = [{"user": str(i)} for i in range(25)]
    path = write(tmp_path / "rows.parquet", rows, row_group_size=10)
    assert [group_of(path, row) for row in (0, 9, 10, 24)] == [(0, 0), (0, 0), (1, 10), (2, 20)]
    found = list(read_groups(path, 1, 10))
    assert [row.row["user"] for row in found] == [str(i) for i in range(10, 25)]
    assert [row.id for row in found][:2] == ["row-11", "row-12"]
    with pytest.raises(InputError, match="no row 26"):
        group_of(path, 25)


def test_files_without_content_or_damaged_are_errors(tmp_path):
    other = write(tmp_path / "other.parquet", [{"text": "hello"}])
    with pytest.raises(InputError, match="has no column user, response, image, images, only text"):
        count_rows(other)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(other.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"torn\.parquet: cannot be read"):
        count_rows(torn)


def test_damage_between_the_rows_is_an_error_when_they_are_read(tmp_path):
    rows = [{"user": str(i) * 50} for i in range(2000)]
    path = write(tmp_path / "rows.parquet", rows, compression="snappy")
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xff" * 300
    path.write_bytes(data)
    assert count_rows(path) == 2000
    with pytest.raises(InputError, match="cannot be read"):
        rows_of(path)
