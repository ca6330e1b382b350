"""The output's folder: whole files or none, and nobody else's files are touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scanning import JUDGING, line, write_rows

from proguard_edge.errors import InputError
from proguard_edge.scan.lines import COLUMNS, to_bytes
from proguard_edge.scan.plan import make_plan
from proguard_edge.scan.store import Store


@pytest.fixture
def plan(tmp_path):
    return make_plan([write_rows(tmp_path / "rows.jsonl", [{"user": "x"}] * 9)], JUDGING, "jsonl")


def begun(folder: Path, plan) -> Store:
    store = Store(folder)
    store.begin(plan)
    return store


def test_a_folder_is_gone_on_with_by_the_same_plan_only(tmp_path, plan):
    out = tmp_path / "out"
    assert Store(out).begun() is None
    begun(out, plan)
    begun(out, plan)
    assert Store(out).begun() == plan
    other = make_plan([tmp_path / "rows.jsonl"], JUDGING, "parquet")
    manifest = (out / "scan.json").read_bytes()
    with pytest.raises(InputError, match="begun with another --format; choose another folder"):
        Store(out).begin(other)
    assert (out / "scan.json").read_bytes() == manifest


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path, plan):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".keep").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no scan"):
        Store(out).begin(plan)
    assert [path.name for path in out.iterdir()] == [".keep"]
    with pytest.raises(InputError, match="cannot be read or written"):
        Store(tmp_path / "rows.jsonl").begin(plan)


def test_a_folder_inside_a_source_is_refused(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    plan = make_plan([tmp_path / "texts"], JUDGING, "jsonl")
    for name in ("texts/out", "texts/../texts/deep/out", "texts"):
        with pytest.raises(InputError, match=r"lies in|holds no scan"):
            Store(tmp_path / name).begin(plan)
    begun(tmp_path / "out", plan)


def test_what_a_killed_run_had_half_written_is_removed_and_does_not_count(tmp_path, plan):
    store = begun(tmp_path / "out", plan)
    parts = tmp_path / "out" / "parts"
    store.write_shard(1, "jsonl", to_bytes(line()))
    (parts / ".000000.jsonl.0123abcd.tmp").write_bytes(b'{"id": "a')
    (tmp_path / "out" / ".scan.json.0123abcd.tmp").write_bytes(b"{")
    (parts / ".gitkeep").write_bytes(b"")
    assert store.done("jsonl") == {1}
    begun(tmp_path / "out", plan)
    assert sorted(path.name for path in parts.iterdir()) == [".gitkeep", "000001.jsonl"]
    assert not list((tmp_path / "out").glob(".scan*"))


def test_a_run_that_was_killed_before_its_manifest_can_begin_again(tmp_path, plan):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".scan.json.0123abcd.tmp").write_bytes(b"{")
    begun(out, plan)
    assert [path.name for path in out.glob(".*")] == []


def test_a_write_that_fails_leaves_no_file_under_the_name(tmp_path, plan, monkeypatch):
    store = begun(tmp_path / "out", plan)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        store.write_shard(0, "jsonl", to_bytes(line()))
    assert store.done("jsonl") == set()


HARD = [
    line(id="plain"),
    line("unsafe", id="é\ud800", modality=None, row=5),
    line("unsafe", risk={"id": None, "name": "a new risk", "in_policy": False}),
    line("error", id="line\nbreak \u2028 <b>|"),
]


@pytest.mark.parametrize("output", ["jsonl", "parquet"])
def test_lines_come_back_as_they_were_written(tmp_path, plan, output):
    if output == "parquet":
        pytest.importorskip("pyarrow")
    store = begun(tmp_path / "out", plan)
    store.write_shard(0, output, b"".join(map(to_bytes, HARD)))
    found = list(store.read_shard(0, output))
    if output == "parquet":
        # Arrow holds no lone surrogates: the escape stands there instead.
        assert found[1].pop("id") == "é\\ud800"
        found[1]["id"] = "é\ud800"
    assert found == HARD


def test_parquet_has_a_column_for_what_is_often_asked_for(tmp_path, plan):
    parquet = pytest.importorskip("pyarrow.parquet")
    store = begun(tmp_path / "out", plan)
    store.write_shard(0, "parquet", b"".join(map(to_bytes, HARD)))
    table = parquet.read_table(tmp_path / "out" / "parts" / "000000.parquet")
    assert table.schema.names == list(COLUMNS)
    assert table["label"].to_pylist() == ["safe", "unsafe", "unsafe", "error"]
    assert table["score"].to_pylist() == [0.1, 0.9, 0.9, None]
    assert table["category_name"].to_pylist() == [None, "Copyright", "a new risk", None]
    assert table["error_type"].to_pylist() == [None, None, None, "TextError"]
    assert json.loads(table["verdict"][0].as_py()) == HARD[0]["verdict"]


def test_a_damaged_part_is_an_error_that_says_what_to_do(tmp_path, plan):
    store = begun(tmp_path / "out", plan)
    (tmp_path / "out" / "parts" / "000000.jsonl").write_bytes(b"{")
    with pytest.raises(InputError, match=r"000000\.jsonl: damaged, remove it and run again"):
        list(store.read_shard(0, "jsonl"))
