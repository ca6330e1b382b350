"""Workers: the verdicts of the guard, errors as lines, and failures that never look like lines."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from scanning import JUDGING, begin, judge, lines_of, task_of, write_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))
from make_images import hostile_images

from proguard_edge.batch import read_rows
from proguard_edge.guard import Guard
from proguard_edge.scan.plan import make_plan
from proguard_edge.scan.worker import Progress, Reader, Worker


@pytest.fixture(scope="module")
def guard(tiny_onnx: Path) -> Iterator[Guard]:
    with Guard.load(tiny_onnx, threads=1, ocr=False) as guard:
        yield guard


def shards_of(*sources: Path, rows: int = 4):
    return list(make_plan(sources, JUDGING, "jsonl", rows).shards())


def test_a_scan_says_of_every_row_what_the_guard_says(tiny_onnx, guard, tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    rows = [
        {"id": "text", "user": "hello"},
        {"id": "both", "user": "hello", "response": "there"},
        {"id": "image", "image": "red.png"},
        {"id": "all", "user": "hello", "image": ["red.png"], "response": "there"},
        "no json",
        {"id": "empty", "user": " "},
    ]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    task = task_of(tiny_onnx)
    scan = judge(begin(task, tmp_path / "out", source), task)
    lines = lines_of(scan)
    red = tmp_path / "red.png"
    expected = [
        guard.moderate("hello"),
        guard.moderate("hello", response="there"),
        guard.moderate(image=red),
        guard.moderate("hello", red, "there"),
    ]
    for found, verdict in zip(lines, expected, strict=False):
        said = verdict.to_dict()
        del said["timings_ms"]
        assert found["verdict"] == said
    assert [found["id"] for found in lines] == ["text", "both", "image", "all", "line-5", "empty"]
    assert [found["row"] for found in lines] == list(range(6))
    assert [f["modality"] for f in lines] == ["text", "text", "image", "text-image", None, "text"]
    assert [f["error"]["type"] for f in lines[4:]] == ["InputError", "TextError"]
    assert {found["source"] for found in lines} == {str(source)}
    assert scan.missing == 0


def test_files_of_a_folder_are_lines_under_their_names_and_hostile_ones_are_errors(
    tiny_onnx, guard, tmp_path
):
    root = tmp_path / "folder"
    corpus = dict(hostile_images(root / "pictures"))
    (root / "a.txt").write_text("hello", encoding="utf-8")
    (root / "latin.md").write_bytes(b"caf\xe9")
    (root / "long.txt").write_text("a" * 100_001)
    (root / os.fsdecode(b"caf\xe9.txt")).write_text("hello")
    task = task_of(tiny_onnx)
    scan = judge(begin(task, tmp_path / "out", root), task)
    found = {line["id"]: line for line in lines_of(scan)}
    assert sorted(found) == sorted(scan.plan.sources[0].files)
    assert found["latin.md"]["error"]["message"].endswith("not UTF-8 text")
    assert found["long.txt"]["error"]["type"] == "LimitError"
    hello = guard.moderate("hello").request.score
    for name in ("a.txt", os.fsdecode(b"caf\xe9.txt")):
        assert found[name]["verdict"]["request"]["score"] == hello
    judged = [name for name in corpus if f"pictures/{name}" in found]
    assert len(judged) > 100
    for name in judged:
        line = found[f"pictures/{name}"]
        assert line["modality"] == "image"
        if name.startswith("ok-"):
            assert line["verdict"]["evaluated"] == ["image"]
        else:
            assert ("verdict" in line) != ("error" in line)
    others = sum(scan.plan.sources[0].not_looked_at.values())
    assert others == len(corpus) - len(judged)


def test_pictures_inside_parquet_get_the_verdict_of_the_file(tiny_onnx, guard, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    rows = [
        {"user": None, "images": [{"bytes": data, "path": None}]},
        {"user": None, "images": [{"bytes": None, "path": "red.png"}]},
        {"user": "x", "images": [{"bytes": b"no picture", "path": None}]},
        {"user": None, "images": []},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    task = task_of(tiny_onnx)
    lines = lines_of(judge(begin(task, tmp_path / "out", tmp_path / "rows.parquet"), task))
    expected = guard.moderate(image=tmp_path / "red.png").request.score
    assert [line["verdict"]["request"]["score"] for line in lines[:2]] == [expected] * 2
    assert [line["error"]["type"] for line in lines[2:]] == ["ImageError", "InputError"]


def test_shards_in_any_order_have_the_rows_of_the_file(tmp_path):
    rows = [{"id": i, "user": str(i)} for i in range(21)]
    plain = write_rows(tmp_path / "rows.jsonl", rows)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    expected = [row.id for row in read_rows(plain)]
    sources = [plain, packed]
    if parquet := pytest.importorskip("pyarrow.parquet"):
        import pyarrow

        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=5)
        sources.append(tmp_path / "rows.parquet")
    for source in sources:
        reader = Reader()
        shards = shards_of(source)
        for order in ([0, 1, 2, 3, 4, 5], [0, 2, 5, 1, 1, 4], [5, 4, 3, 0]):
            for number in order:
                found = [row.id for row in reader.rows(shards[number])]
                assert found == expected[4 * number : 4 * number + 4], (source.name, order)


def test_a_shard_behind_the_last_goes_on_in_the_open_file(tmp_path, monkeypatch):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": str(i)} for i in range(40)])
    opened = []

    def counting(path):
        opened.append(path)
        return read_rows(path)

    monkeypatch.setattr("proguard_edge.scan.worker.read_rows", counting)
    reader = Reader()
    shards = shards_of(source)
    for shard in (shards[0], shards[1], shards[5], shards[9]):
        assert len(list(reader.rows(shard))) == 4
    assert len(opened) == 1


def test_a_file_that_changed_or_went_is_a_failure_and_gives_no_lines(tiny_onnx, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}] * 8)
    shards = shards_of(source)
    worker = Worker(task_of(tiny_onnx))
    assert worker.judge(shards[0]).lines.count(b"\n") == 4
    write_rows(source, [{"user": "a"}] * 7 + [{"user": "b"}])
    os.utime(source, ns=(0, 1))
    for said in ("has changed since the scan began", "cannot be read"):
        done = worker.judge(shards[1])
        assert (done.number, done.lines) == (1, b"")
        assert said in done.failure
        source.unlink(missing_ok=True)
    worker.close()


def test_a_worker_that_would_judge_otherwise_than_the_scan_judges_nothing(tiny_onnx, tmp_path):
    shards = shards_of(write_rows(tmp_path / "rows.jsonl", [{"user": "a"}]))
    task = task_of(tiny_onnx)
    other = replace(task, judging=replace(task.judging, artifact="0" * 64, reading="otherwise"))
    done = Worker(other).judge(shards[0])
    assert done.failure == "a worker judges with another artifact, reading than the scan"
    done = Worker(replace(task, loading={"artifact": tmp_path})).judge(shards[0])
    assert "artifact" in done.failure


def test_what_nobody_foresaw_is_a_failure(tiny_onnx, tmp_path, monkeypatch):
    shards = shards_of(write_rows(tmp_path / "rows.jsonl", [{"user": "a"}]))
    worker = Worker(task_of(tiny_onnx))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Guard, "judge", fail)
    done = worker.judge(shards[0])
    assert (done.lines, done.failure) == (b"", "unexpected RuntimeError: a bug")
    worker.close()


def test_rows_are_told_as_they_are_judged(tiny_onnx, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}, "no json", {"user": "b"}])
    told: list[Progress] = []
    worker = Worker(task_of(tiny_onnx))
    done = worker.judge(shards_of(source)[0], told.append)
    worker.close()
    labels = ["error" if "error" in json.loads(x) else "" for x in done.lines.splitlines()]
    assert [progress.rows for progress in told] == [1, 2, 3]
    assert [progress.errors for progress in told] == [0, 1, 1]
    assert labels == ["", "error", ""]
