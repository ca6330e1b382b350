"""`train rows` and `train sft` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proguard_edge.cli import main
from proguard_edge.train.rows import read_jsonl


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    base = {"source": "s", "licence": "MIT", "modality": "text"}
    lines = [json.dumps({**base, "id": f"{path.stem}-{n}", **row}) for n, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(
        tmp_path / "data.jsonl",
        [
            {"user": "How do I bake bread?", "request_label": "safe"},
            {"user": "how do i bake BREAD", "request_label": "safe"},
            {"user": "How do I bake a bomb?", "request_label": "unsafe", "category": "C8S1"},
            {"user": "What is rye?", "response": "A grain.", "response_label": "safe"},
        ],
    )


def test_rows_are_cleaned_counted_written_and_drawn(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = write(tmp_path / "eval.jsonl", [{"user": "what is rye", "request_label": "safe"}])
    out, plot = tmp_path / "clean.jsonl.gz", tmp_path / "counts.png"
    done = run("rows", data, "--not-in", asked, "-o", out, "--plot", plot, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"] == 2
    assert (found["dropped"]["equal"], found["dropped"]["in_excluded_files"]) == (1, 1)
    assert found["counts"]["text"]["unsafe"] == {"C8S1": 1}
    assert [row.user for row in read_jsonl(out)] == [
        "How do I bake bread?",
        "How do I bake a bomb?",
    ]
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert "| C8S1" in run("rows", data).stdout


def test_rows_of_an_unknown_shape_are_an_error_that_lists_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    failed = run("rows", tmp_path / "odd.csv")
    assert failed.exit_code == 3
    assert "xstest" in failed.stderr
    assert run("rows", tmp_path / "none.csv").exit_code == 3


def test_a_bad_label_names_file_and_line(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [{"user": "hi", "request_label": "maybe"}])
    failed = run("rows", bad)
    assert failed.exit_code == 3
    assert "bad.jsonl, line 1" in failed.stderr


def test_sft_trains_a_checkpoint_that_loads(tiny: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from proguard_edge.export.checkpoint import Checkpoint

    out = tmp_path / "run"
    options = ["--model", tiny, "--data", data, "--out", out, "--steps", 2, "--batch", 2]
    done = run("sft", *options, "--augment", "--json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1] == {"checkpoint": str(out / "checkpoint"), "rows": 4}
    assert lines[0]["step"] == 1
    assert Checkpoint(out / "checkpoint").digest() != Checkpoint(tiny).digest()
    trained = json.loads((out / "checkpoint" / "training.json").read_text())
    assert trained["augmented"] is True


def test_sft_on_a_folder_that_is_no_checkpoint_is_one_clear_line(
    data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    failed = run("sft", "--model", tmp_path, "--data", data, "--out", tmp_path / "o", "--steps", 1)
    assert failed.exit_code == 3
    assert "no tokenizer.json" in failed.stderr
