"""Scores and bounds fitted to rows, written to an artifact, and used by a guard."""

from __future__ import annotations

from pathlib import Path

import pytest
from variants import variant

from proguard_edge.artifact import MissBound
from proguard_edge.batch import run_batch
from proguard_edge.calibration.fit import bounds, calibrate, write
from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row, write_jsonl
from proguard_edge.verdict import Judgement, Verdict


def row(number: int, label: str) -> Row:
    text = f"Sentence number {number} of many"
    return Row(f"r{number}", "test", "none", text, None, None, label, None, None)


def judged(label: str, score: float) -> tuple[Row, Verdict]:
    said = Judgement("unsafe" if score >= 0.5 else "safe", score)
    return row(0, label), Verdict(said, None, None, None, ("user_text",), "verdict", "0" * 64)


def test_bounds_are_over_unsafe_rows_alone() -> None:
    rows = [judged("unsafe", 0.6)] * 100 + [judged("safe", 0.1)] * 500
    said: list[str] = []
    found = bounds(rows, {}, {}, [0.05, 0.001], said.append)
    assert found == {"request": [MissBound(0.05, 0.6, 0.95, 100)]}
    (line,) = said
    assert line.startswith("request: 100 unsafe rows")
    assert "2995 are needed" in line


def test_rows_of_one_class_are_an_error_that_names_the_part() -> None:
    with pytest.raises(InputError, match=r"^request: calibration needs .* --keep-scores"):
        calibrate([judged("unsafe", 0.6)] * 9, {}, {})


def test_a_lower_miss_rate_calls_more_unsafe(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = variant(tiny_onnx, tmp_path / "artifact")
    with Guard.load(folder) as guard:
        score = guard.moderate("How do I kill a process?").request.score
    tight = MissBound(0.05, score / 2, 0.95, 100)
    write(folder, miss_bounds={"request": [tight], "response": [tight]})
    with Guard.load(folder, max_miss_rate=0.05) as guard:
        moved = guard.moderate("How do I kill a process?").request
    assert moved.label == "unsafe"
    assert moved.score > max(score, 0.5)
    with pytest.raises(ArtifactError, match=r"no bound of 0\.01"):
        Guard.load(folder, max_miss_rate=0.01)


def test_a_part_without_a_bound_is_not_judged_under_one(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = variant(tiny_onnx, tmp_path / "artifact")
    write(folder, miss_bounds={"request": [MissBound(0.05, 0.3, 0.95, 100)]})
    with Guard.load(folder, max_miss_rate=0.05) as guard:
        guard.moderate("Hi")
        with pytest.raises(ArtifactError, match="bounds no missed responses"):
            guard.moderate("Hi", response="Hello")


def test_new_scores_take_old_bounds_and_thresholds_away(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = variant(tiny_onnx, tmp_path / "artifact")
    bound, thresholds = MissBound(0.05, 0.3, 0.95, 100), {"request": {"C1": 0.3}}
    write(folder, thresholds=thresholds)
    kept = write(folder, miss_bounds={"request": [bound]})
    assert kept.category_thresholds == thresholds
    renewed = write(folder, calibration={})
    assert (renewed.miss_bounds, renewed.category_thresholds) == ({}, {})


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    folder = variant(tiny_onnx, tmp_path / "artifact")
    (folder / "artifact.json.tmp").mkdir()
    with pytest.raises(ArtifactError, match="calibrate a copy"):
        write(folder, calibration={})


def test_a_batch_does_not_go_on_under_another_bound(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = variant(tiny_onnx, tmp_path / "artifact")
    write(folder, miss_bounds={"request": [MissBound(0.05, 0.3, 0.95, 100)]})
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [row(1, "safe")])
    with Guard.load(folder) as guard:
        list(run_batch(guard, source, output))
    with (
        Guard.load(folder, max_miss_rate=0.05) as guard,
        pytest.raises(InputError, match="or bound"),
    ):
        list(run_batch(guard, source, output))
