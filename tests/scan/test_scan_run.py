"""Scans that are stopped: what was finished is kept, the rest is judged, every row once."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scanning import JUDGING, begin, judge, line, lines_of, task_of, write_rows

from proguard_edge.errors import InputError
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.scan.lines import to_bytes
from proguard_edge.scan.run import MAX_FAILURES, GiveUp
from proguard_edge.scan.worker import Done, Progress


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rows plain and compressed, some with one id, some bad; and a folder."""
    root = tmp_path_factory.mktemp("sources")
    rows: list[Any] = [{"id": i % 3, "user": f"text {i}"} for i in range(9)]
    plain = write_rows(root / "rows.jsonl", [*rows, "no json", {"user": ""}])
    (root / "more.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (root / "folder").mkdir()
    (root / "folder" / "a.txt").write_text("hello")
    Image.new("RGB", (60, 60), "red").save(root / "folder" / "b.png")
    (root / "folder" / "c.pdf").write_text("x")
    return [plain, root / "more.jsonl.gz", root / "folder"]


@pytest.fixture(scope="module")
def task(tiny_onnx: Path) -> Any:
    return task_of(tiny_onnx)


@pytest.fixture(scope="module")
def whole(task, sources, tmp_path_factory) -> list[dict[str, Any]]:
    """The lines of a scan that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return lines_of(judge(begin(task, out, *sources), task))


@pytest.mark.parametrize("output", ["jsonl", "parquet"])
@pytest.mark.parametrize("shards", [0, 1, 3, 6])
def test_a_stopped_scan_goes_on_and_ends_with_every_row_once(
    task, sources, whole, tmp_path, output, shards
):
    if output == "parquet":
        pytest.importorskip("pyarrow")
    first = judge(begin(task, tmp_path / "out", *sources, output=output), task, shards)
    written = {path: path.read_bytes() for path in (tmp_path / "out" / "parts").iterdir()}
    assert len(written) == shards
    second = begin(task, tmp_path / "out", *sources, output=output)
    assert second.tally == first.tally
    assert second.found_rows == first.tally.rows
    judge(second, task)
    assert second.missing == 0
    assert lines_of(second) == whole
    assert len(whole) == second.plan.rows == 24
    assert all(path.read_bytes() == data for path, data in written.items())


def test_a_finished_scan_is_not_done_again(task, sources, tmp_path, monkeypatch):
    first = judge(begin(task, tmp_path / "out", *sources), task)
    monkeypatch.setattr(Guard, "judge", lambda *_, **__: pytest.fail("judged again"))
    second = begin(task, tmp_path / "out", *sources)
    assert second.todo == []
    assert second.tally == first.tally
    assert second.missing == 0


def test_another_artifact_policy_mode_bound_or_reading_does_not_go_on(task, sources, tmp_path):
    judge(begin(task, tmp_path / "out", *sources), task, 1)
    policy = Policy.default().subset(["C8"]).digest()
    for changes, said in (
        ({"artifact": "0" * 64}, "another artifact"),
        ({"policy": policy}, "another policy"),
        ({"mode": "reason"}, "another mode"),
        ({"max_miss_rate": 0.1}, "another max miss rate"),
        ({"reading": "image and text"}, "another reading"),
        ({"engine": "remote"}, "another engine"),
    ):
        other = replace(task, judging=replace(task.judging, **changes))
        with pytest.raises(InputError, match=f"begun with {said}; choose another folder"):
            begin(other, tmp_path / "out", *sources)


def test_an_input_that_changed_is_refused_and_its_lines_are_kept(task, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}, {"user": "b"}])
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    judge(begin(task, tmp_path / "out", source, folder), task)
    kept = sorted((tmp_path / "out" / "parts").iterdir())
    (folder / "b.txt").write_text("new")
    with pytest.raises(InputError, match="folder as it was before it changed"):
        begin(task, tmp_path / "out", source, folder)
    (folder / "b.txt").unlink()
    write_rows(source, [{"user": "a"}, {"user": "c"}, {"user": "d"}])
    with pytest.raises(InputError, match=r"rows\.jsonl as it was before it changed"):
        begin(task, tmp_path / "out", source, folder)
    with pytest.raises(InputError, match="other sources"):
        begin(task, tmp_path / "out", folder)
    assert sorted((tmp_path / "out" / "parts").iterdir()) == kept


def test_a_part_that_lacks_a_row_is_an_error_and_not_counted_as_whole(task, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}] * 4)
    judge(begin(task, tmp_path / "out", source), task)
    part = tmp_path / "out" / "parts" / "000000.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(InputError, match="shard 0 has 3 of 4 rows; remove its file"):
        begin(task, tmp_path / "out", source)


def scan_of(tmp_path, shards):
    rows = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}] * shards)
    from scanning import Task

    return begin(Task({}, None, JUDGING, 1), tmp_path / "out", rows, shard_rows=1)


def test_a_failed_shard_is_missing_until_a_later_run_judges_it(tmp_path):
    scan = scan_of(tmp_path, 3)
    scan.finished(Done(0, to_bytes(line())))
    scan.finished(Done(1, failure="three workers died"))
    scan.finished(Done(2, to_bytes(line("error"))))
    assert scan.failures == ["three workers died"]
    assert scan.missing == 1
    again = scan_of(tmp_path, 3)
    assert [shard.number for shard in again.todo] == [1]
    again.finished(Done(1, to_bytes(line("unsafe"))))
    assert again.missing == 0
    assert again.tally.labels == {"safe": 1, "unsafe": 1, "error": 1}


def test_after_some_failures_in_a_row_a_scan_gives_up(tmp_path):
    scan = scan_of(tmp_path, 2 * MAX_FAILURES)
    for number in range(MAX_FAILURES - 1):
        scan.finished(Done(number, failure="died"))
    scan.finished(Done(MAX_FAILURES - 1, to_bytes(line())))
    for number in range(MAX_FAILURES - 1):
        scan.finished(Done(MAX_FAILURES + number, failure="died"))
    with pytest.raises(GiveUp):
        scan.finished(Done(2 * MAX_FAILURES - 1, failure="died"))
    assert len(scan.failures) == 2 * MAX_FAILURES - 1
    assert scan.missing == 2 * MAX_FAILURES - 1


def test_progress_counts_the_rows_of_shards_under_way_until_they_are_finished(tmp_path):
    scan = scan_of(tmp_path, 3)
    scan.finished(Done(0, to_bytes(line("unsafe"))))
    under_way = {0: Progress(1, 1, 0), 1: Progress(5, 2, 1)}
    assert scan.progress(under_way) == Progress(6, 3, 1)
    assert scan.progress() == Progress(1, 1, 0)
