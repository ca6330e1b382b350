"""Batches: every row gets exactly one line, whatever is in it and whenever the run stops."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from variants import ALL_SAFE, variant

from proguard_edge.batch import MAX_LINE_BYTES, Summary, read_rows, run_batch
from proguard_edge.cli import main
from proguard_edge.errors import InputError
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy


@pytest.fixture(scope="module")
def guard(tiny_onnx: Path) -> Iterator[Guard]:
    with Guard.load(tiny_onnx, threads=1) as guard:
        yield guard


@pytest.fixture(scope="module")
def calm(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artifact with a calibration under which everything is safe."""
    return variant(tiny_onnx, tmp_path_factory.mktemp("calm") / "artifact", calibration=ALL_SAFE)


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as JSONL; a str is a raw line."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(guard: Guard, source: Path, output: Path, **options: Any) -> Summary:
    return [Summary(), *run_batch(guard, source, output, **options)][-1]


def read(output: Path) -> list[dict[str, Any]]:
    """The output's lines without what differs from run to run."""
    lines = [json.loads(line) for line in output.read_bytes().splitlines()]
    for line in lines:
        line.get("verdict", {}).pop("timings_ms", None)
    return lines


def test_rows_of_every_modality_get_the_verdict_of_their_content(guard, tmp_path):
    (tmp_path / "pictures").mkdir()
    for name, colour in (("red", (200, 10, 10)), ("blue", (10, 10, 200))):
        Image.new("RGB", (60, 60), colour).save(tmp_path / "pictures" / f"{name}.png")
    red, blue = "pictures/red.png", "pictures/blue.png"
    rows = [
        {"id": "text", "user": "hello"},
        {"id": "both", "user": "hello", "response": "there", "label": "unsafe", "category": 7},
        {"id": "response", "response": "there"},
        {"id": "image", "image": red},
        {"id": "images", "user": "hello", "image": [red, blue]},
    ]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    summary = run(guard, source, tmp_path / "out.jsonl")
    found = {line["id"]: line["verdict"] for line in read(tmp_path / "out.jsonl")}
    paths = [tmp_path / red, tmp_path / blue]
    expected = {
        "text": guard.moderate("hello"),
        "both": guard.moderate("hello", response="there"),
        "response": guard.moderate(response="there"),
        "image": guard.moderate(image=paths[0]),
        "images": guard.moderate("hello", image=paths),
    }
    assert list(found) == list(expected)
    for name, verdict in expected.items():
        assert found[name] == {k: v for k, v in verdict.to_dict().items() if k != "timings_ms"}
    assert found["images"]["evaluated"] == ["user_text", "image"]
    assert (summary.unsafe, summary.safe, summary.errors) == (5, 0, 0)
    assert sum(summary.categories.values()) == 5


BAD = [
    ("not json", "{user: 1}", "InputError"),
    ("half a row", '{"user": "hello"', "InputError"),
    ("deep", "[" * 50_000, "InputError"),
    ("a list", '["hello"]', "InputError"),
    ("a text", '"hello"', "InputError"),
    ("null", "null", "InputError"),
    ("not utf-8", "LATIN", "InputError"),
    ("no content", {"label": "safe"}, "InputError"),
    ("a number", {"user": 5}, "InputError"),
    ("a list of texts", {"user": ["hello"]}, "InputError"),
    ("an object", {"user": {"text": "hello"}}, "InputError"),
    ("response of another type", {"user": "hello", "response": False}, "InputError"),
    ("empty", {"user": ""}, "TextError"),
    ("blank", {"user": " \n\t", "response": "  "}, "TextError"),
    ("NUL", {"user": "a\0b"}, "TextError"),
    ("surrogate", {"user": "a\ud800b"}, "TextError"),
    ("too long", {"user": "a" * 100_001}, "LimitError"),
    ("missing image", {"user": "hello", "image": "no.png"}, "ImageError"),
    ("image is a folder", {"image": "."}, "ImageError"),
    ("image without a name", {"user": "hello", "image": ""}, "ImageError"),
    ("image with NUL", {"image": "a\0.png"}, "ImageError"),
    ("image with a surrogate", {"image": "\ud800.png"}, "ImageError"),
    ("image is a number", {"user": "hello", "image": 3}, "InputError"),
    ("image is nothing", {"user": "hello", "image": {}}, "InputError"),
    ("image is false", {"user": "hello", "image": False}, "InputError"),
    ("a list of numbers", {"image": [1]}, "InputError"),
    ("images, which nobody reads", {"user": "hello", "images": ["red.png"]}, "InputError"),
    ("a message", {"user": "hello", "message": "hello"}, "InputError"),
    ("messages", {"messages": [{"role": "user", "content": "hello"}]}, "InputError"),
    ("too many images", {"user": "hello", "image": ["red.png"] * 17}, "LimitError"),
]


def test_a_bad_row_is_a_line_of_its_own_and_stops_no_other(guard, tmp_path):
    good = {"id": "good", "user": "hello"}
    rows = [x for _, row, _ in BAD for x in (row, good)]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    source.write_bytes(source.read_bytes().replace(b"LATIN", b'{"user": "caf\xe9"}'))
    summary = run(guard, source, tmp_path / "out.jsonl")
    lines = read(tmp_path / "out.jsonl")
    assert len(lines) == 2 * len(BAD)
    for i, (what, _, kind) in enumerate(BAD):
        line, after = lines[2 * i], lines[2 * i + 1]
        assert line["id"] == f"line-{2 * i + 1}", what
        assert line["error"]["type"] == kind, what
        assert line["error"]["message"].isprintable(), what
        assert after["verdict"]["evaluated"] == ["user_text"], what
    assert (summary.unsafe, summary.errors) == (len(BAD), len(BAD))


def test_a_line_above_the_limit_is_an_error_and_the_next_one_is_read(tmp_path, monkeypatch):
    assert MAX_LINE_BYTES >= 1 << 20
    monkeypatch.setattr("proguard_edge.batch.MAX_LINE_BYTES", 100)
    rows = [{"user": "a" * 1000}, {"user": "short"}, {"user": "b" * 60}]
    found = list(read_rows(write_rows(tmp_path / "rows.jsonl", rows)))
    assert [row.id for row in found] == ["line-1", "line-2", "line-3"]
    assert isinstance(found[0].row, InputError)
    assert [row.row["user"] for row in found[1:]] == ["short", "b" * 60]


@pytest.fixture(scope="module")
def whole(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Rows, some with the same id, some without, some bad; and the lines of one whole run."""
    folder = tmp_path_factory.mktemp("whole")
    rows: list[Any] = [{"id": i % 3, "user": f"text number {i}"} for i in range(6)]
    rows += ["no json", {"user": "without an id"}, "", {"id": "line-2", "user": "whose?"}]
    rows += [
        {"id": None, "user": "null"},
        {"id": "", "user": "empty"},
        {"id": "é\ud800", "user": "x"},
    ]
    source = write_rows(folder / "rows.jsonl", rows)
    run(guard, source, folder / "out.jsonl")
    return source, read(folder / "out.jsonl")


def test_each_row_keeps_its_id(whole):
    ids = [line["id"] for line in whole[1]]
    assert ids == ["0", "1", "2"] * 2 + ["line-7", "line-8", "line-2", "line-11", "", "é\ud800"]


@pytest.mark.parametrize("rows", [0, 1, 4, 7, 11])
@pytest.mark.parametrize("torn", [0, 1, 6, 9, 40, -2, -1])
def test_a_stopped_run_goes_on_where_it_was(guard, whole, tmp_path, rows, torn):
    """`torn`: bytes of the next line that had reached the file; -1 is all but the line's end."""
    source, expected = whole
    output = tmp_path / "out.jsonl"
    running = run_batch(guard, source, output)
    for _ in range(rows):
        next(running)
    running.close()
    written = output.read_bytes() if rows else b""
    assert written.count(b"\n") == rows
    following = json.dumps({"id": "x", "error": {"type": "é", "message": "é"}}, ensure_ascii=False)
    output.write_bytes(written + (following.encode() + b"\n")[:torn] if torn else written)
    summary = run(guard, source, output)
    assert read(output) == expected
    assert output.read_bytes().startswith(written)
    assert summary.skipped == rows
    assert summary.safe + summary.unsafe + summary.errors == len(expected)


def test_a_finished_run_is_not_done_again(guard, whole, tmp_path, monkeypatch):
    source, expected = whole
    output = tmp_path / "out.jsonl"
    first = run(guard, source, output)
    written = output.read_bytes()
    monkeypatch.setattr(Guard, "judge", lambda *_, **__: pytest.fail("judged again"))
    second = run(guard, source, output)
    assert output.read_bytes() == written
    assert second.skipped == len(expected)
    assert (first.unsafe, first.errors) == (second.unsafe, second.errors)
    assert first.categories == second.categories


def with_images(folder: Path) -> tuple[Path, list[Any]]:
    """Rows without ids, with ids, and with images; the file and the rows."""
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (60, 60), colour).save(folder / f"{name}.png")
    rows: list[Any] = [
        {"user": "one"},
        {"user": "two"},
        {"id": "a", "user": "three", "image": "red.png"},
        {"id": "b", "image": ["red.png", "blue.png"]},
    ]
    return write_rows(folder / "rows.jsonl", rows), rows


def other_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def other_time(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


CHANGES: dict[str, Callable[[Path, list[Any]], object]] = {
    "another text": lambda _, rows: rows[0].update(user="other"),
    "a response that was added": lambda _, rows: rows[2].update(response="other"),
    "a response that was added to the last row": lambda _, rows: rows[3].update(response="other"),
    "a line before": lambda _, rows: rows.insert(0, {"user": "zero"}),
    "a line between": lambda _, rows: rows.insert(1, {"user": "one and a half"}),
    "an empty line before": lambda _, rows: rows.insert(0, ""),
    "a line gone": lambda _, rows: rows.pop(0),
    "lines in another order": lambda _, rows: rows.insert(0, rows.pop(1)),
    "no JSON any more": lambda _, rows: rows.__setitem__(0, "{"),
    "ids that changed places": lambda _, rows: (rows[2].update(id="b"), rows[3].update(id="a")),
    "another image of that name": lambda folder, _: other_bytes(folder / "red.png"),
    "another image of that size": lambda folder, _: other_time(folder / "blue.png"),
    "an image gone": lambda folder, _: (folder / "blue.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_changed_is_an_error_and_never_gets_an_old_verdict(
    guard, tmp_path, monkeypatch, change
):
    source, rows = with_images(tmp_path)
    output = tmp_path / "out.jsonl"
    run(guard, source, output)
    written = output.read_bytes()
    assert run(guard, source, output).skipped == len(rows)
    CHANGES[change](tmp_path, rows)
    write_rows(source, rows)
    monkeypatch.setattr(Guard, "judge", lambda *_, **__: pytest.fail("judged"))
    with pytest.raises(InputError, match=r"answers another row .*choose another name"):
        run(guard, source, output)
    assert output.read_bytes() == written


def test_another_artifact_engine_policy_or_mode_does_not_go_on_from_the_answers_of_the_first(
    guard, tmp_path, monkeypatch
):
    source, rows = with_images(tmp_path)
    output = tmp_path / "out.jsonl"
    run(guard, source, output)
    written = output.read_bytes()
    monkeypatch.setattr(Guard, "judge", lambda *_, **__: pytest.fail("judged"))
    other = Guard(replace(guard.artifact, digest="0" * 64), guard.engine)
    served = Guard(replace(guard.artifact, engine="transformers"), guard.engine)
    policy = Policy.default().subset(["C8"])
    for judge, options in (
        (other, {}),
        (served, {}),
        (guard, {"policy": policy}),
        (guard, {"mode": "reason"}),
    ):
        with pytest.raises(InputError, match="another artifact, engine, policy, mode or reading"):
            run(judge, source, output, **options)
        assert output.read_bytes() == written
    # The artifact's own policy is the same one, whether it is named or not.
    assert run(guard, source, output, policy=guard.policy).skipped == len(rows)


def test_a_row_that_was_not_answered_yet_may_change(guard, tmp_path):
    source, rows = with_images(tmp_path)
    output = tmp_path / "out.jsonl"
    running = run_batch(guard, source, output)
    next(running)
    running.close()
    rows[1]["user"] = "another one"
    other_bytes(tmp_path / "red.png")
    write_rows(source, [*rows, {"user": "one more"}])
    assert run(guard, source, output).skipped == 1
    fresh = tmp_path / "fresh.jsonl"
    run(guard, source, fresh)
    assert read(output) == read(fresh)


def test_rows_of_one_id_are_told_apart_by_their_content(guard, tmp_path):
    rows = [{"id": "a", "user": f"text {i}"} for i in range(3)]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    output = tmp_path / "out.jsonl"
    run(guard, source, output)
    keys = [line["key"] for line in read(output)]
    assert len(set(keys)) == 3
    write_rows(source, rows[::-1])
    assert run(guard, source, output).skipped == 3
    write_rows(source, [rows[0], rows[0], rows[1]])
    with pytest.raises(InputError, match="answers another row 'a'"):
        run(guard, source, output)


def test_answers_without_keys_are_not_gone_on_from(guard, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"id": "a", "user": "hello"}])
    output = tmp_path / "out.jsonl"
    run(guard, source, output)
    line = read(output)[0]
    del line["key"]
    write_rows(output, [line])
    with pytest.raises(InputError, match="choose another name"):
        run(guard, source, output)


def test_compressed_rows_are_read(guard, whole, tmp_path):
    source, expected = whole
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    run(guard, packed, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == expected


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"hello\n",
        b"{}\n",
        b'{"id": "a", "user": "one of my rows"}',
        b'{"id": "a", "user": "one of my rows"}\n',
        b'{"id": "a", "verdict": {}}\n',
        b'{"id": "a", "verdict": "safe"}\n',
        b'{"id": 3, "error": {}}\n',
        b'{"id": "a", "verdict": null, "error": null}\n',
        b'{"id": "a", "verdict": {"request": {"label": "unsafe"}, "response": null, '
        b'"category": "C1"}}\n',
        b'[{"id": "a"}]\n',
        b"[" * 50_000 + b"\n",
        b"\n",
        b"\x00" * 100,
        b"\x1f\x8b\x08",
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_stays_as_it_is(guard, whole, tmp_path, content):
    output = tmp_path / "out.jsonl"
    output.write_bytes(content)
    with pytest.raises(InputError, match="not an output of moderate-batch"):
        run(guard, whole[0], output)
    assert output.read_bytes() == content


def test_the_input_is_never_the_output(guard, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"id": "a", "error": "of mine"}])
    source.write_bytes(source.read_bytes()[:-1])
    content = source.read_bytes()
    (tmp_path / "link.jsonl").hardlink_to(source)
    for output in (source, tmp_path / "link.jsonl"):
        with pytest.raises(InputError, match="is the input"):
            run(guard, source, output)
    assert source.read_bytes() == content


def unreadable(folder: Path) -> dict[str, Path]:
    packed = gzip.compress(b'{"user": "hello"}\n' * 5000)
    files = {
        "no gzip.gz": b'{"user": "hello"}\n',
        "cut.gz": packed[:-20],
        "damaged.gz": packed[:20] + b"\xff" * 20 + packed[40:],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jsonl").mkdir()
    names = [*files, "folder.jsonl", "missing.jsonl", "missing/rows.jsonl"]
    return {name: folder / name for name in names}


def test_input_that_cannot_be_read_is_an_error(tmp_path):
    for name, path in unreadable(tmp_path).items():
        with pytest.raises(InputError, match="cannot be read") as caught:
            list(read_rows(path))
        assert name in str(caught.value)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        list(read_rows(tmp_path / "pipe"))


@pytest.mark.parametrize("output", ["missing/out.jsonl", "folder", "rows.jsonl/out.jsonl"])
def test_output_that_cannot_be_written_is_an_error(guard, whole, tmp_path, output):
    (tmp_path / "folder").mkdir()
    (tmp_path / "rows.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        run(guard, whole[0], tmp_path / output)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error(guard, whole):
    with pytest.raises(InputError, match="cannot be written: No space"):
        run(guard, whole[0], Path("/dev/full"))


def command(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["moderate-batch", *map(str, arguments), "--threads", "1"])


@pytest.mark.parametrize(
    ("artifact", "rows", "code"),
    [
        ("calm", [{"user": "a"}, {"user": "b"}], 0),
        ("calm", [], 0),
        ("tiny_onnx", [{"user": "a"}, {"user": "b"}], 1),
        ("calm", [{"user": "a"}, {"user": ""}], 3),
        ("tiny_onnx", [{"user": ""}, {"user": "a"}], 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst_row(request, tmp_path, artifact, rows, code):
    folder = request.getfixturevalue(artifact)
    source = write_rows(tmp_path / "rows.jsonl", rows)
    for again in (False, True):
        result = command(source, "-o", tmp_path / "out.jsonl", "--artifact", folder, "--json")
        assert result.exit_code == code
        summary = json.loads(result.stdout)
        assert summary["skipped"] == (len(rows) if again else 0)
        assert summary["safe"] + summary["unsafe"] + summary["errors"] == len(rows)


def test_the_command_refuses_to_go_on_from_answers_to_other_rows(calm, tiny_onnx, tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [{"user": "a"}])
    output = tmp_path / "out.jsonl"
    assert command(source, "-o", output, "--artifact", calm).exit_code == 0
    other = command(source, "-o", output, "--artifact", tiny_onnx)
    write_rows(source, [{"user": "b"}])
    for result in (other, command(source, "-o", output, "--artifact", calm, "--json")):
        assert result.exit_code == 3
        assert "answers another row 'line-1'" in result.stderr
        assert result.stdout == ""


def test_the_command_names_what_it_cannot_read_or_write(calm, whole, tmp_path):
    cases = {
        "rows.gz: cannot be read": (tmp_path / "rows.gz", tmp_path / "out"),
        "/dev/full: cannot be written": (whole[0], Path("/dev/full")),
    }
    for message, (source, output) in cases.items():
        result = command(source, "-o", output, "--artifact", calm)
        assert result.exit_code == 3
        assert message in result.stderr
        assert "Traceback" not in result.output
