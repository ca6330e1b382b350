"""`proguard-edge calibrate` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from variants import variant

from proguard_edge.artifact import Artifact
from proguard_edge.calibration.fit import write
from proguard_edge.cli import main
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row, write_jsonl

ROWS = 60


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments), "--threads", "1"])


def row(number: int, label: str | None) -> Row:
    text = f"Sentence number {number} of many"
    return Row(f"r{number}", "test", "none", text, None, None, label, None, None)


@pytest.fixture(scope="module")
def scores(tiny_onnx: Path) -> dict[int, float]:
    with Guard.load(tiny_onnx, threads=1) as guard:
        texts = {n: row(n, None).user for n in range(ROWS)}
        return {n: guard.moderate(text).request.score for n, text in texts.items()}


@pytest.fixture
def rows(scores: dict[int, float], tmp_path: Path) -> tuple[Path, list[Row]]:
    """Unsafe are the rows that score above the middle, a few of them excepted."""
    middle = sorted(scores.values())[ROWS // 2]
    made = [
        row(n, "unsafe" if (score > middle) != (n % 7 == 0) else "safe")
        for n, score in scores.items()
    ]
    write_jsonl(tmp_path / "rows.jsonl", made)
    return tmp_path / "rows.jsonl", made


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path) -> Path:
    return variant(tiny_onnx, tmp_path / "artifact", free_names=False)


def test_scores_and_bounds_are_fitted_on_different_rows(
    folder: Path, rows: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    data, made = rows
    before = Artifact.open(folder).digest
    out, plot = tmp_path / "report.json", tmp_path / "plot.png"
    done = run(folder, "--data", data, "--rate", 0.3, "--plot", plot, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    artifact = Artifact.open(folder)
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    assert report["artifact"] == {
        "folder": str(folder),
        "before": before,
        "after": artifact.digest,
    }
    behind = [r for r in made if not r.in_held_out(50)]
    (bound,) = artifact.miss_bounds["request"]
    assert bound.rows == sum(r.request_label == "unsafe" for r in behind) < ROWS / 2
    found = report["parts"]["request"]
    assert (
        artifact.calibration["request"].temperature == found["calibration"]["after"]["temperature"]
    )
    reliability = found["reliability"]
    assert reliability["before"]["rows"] == reliability["after"]["rows"] == len(behind)
    assert sum(b["rows"] for b in reliability["after"]["bins"]) == len(behind)
    # A random model that says about 0.85 to all of them, half of which are safe.
    assert reliability["after"]["ece"] < reliability["before"]["ece"]
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_the_errors_are_those_of_the_artifact_as_written(
    folder: Path, rows: tuple[Path, list[Row]]
) -> None:
    data, _ = rows
    first = json.loads(run(folder, "--data", data, "--rate", 0.3, "--json").stdout)
    again = run(folder, "--data", data, "--dry-run", "--json")
    for name in ("ece", "ece_adaptive", "ece_balanced", "brier"):
        after = first["parts"]["request"]["reliability"]["after"][name]
        before = json.loads(again.stdout)["parts"]["request"]["reliability"]["before"][name]
        assert before == pytest.approx(after, abs=1e-5)


def test_a_dry_run_prints_the_errors_and_leaves_the_artifact(
    folder: Path, rows: tuple[Path, list[Row]]
) -> None:
    manifest = (folder / "artifact.json").read_bytes()
    done = run(folder, "--data", rows[0], "--rate", 0.3, "--rate", 0.001, "--dry-run")
    assert done.exit_code == 0, done.output
    assert (folder / "artifact.json").read_bytes() == manifest
    lines = done.stdout.splitlines()
    assert lines[0] == f"{ROWS} rows"
    assert any("calibration error" in line and "→" in line for line in lines)
    assert any("at most 0.3 of unsafe rows score below" in line for line in lines)
    assert any("cannot bound the miss rate by 0.001" in line for line in lines)
    assert lines[-1] == "the artifact was left as it is"


def test_kept_scores_give_bounds_on_all_rows_and_keep_thresholds(
    folder: Path, rows: tuple[Path, list[Row]]
) -> None:
    data, made = rows
    write(folder, thresholds={"request": {"C1": 0.3}})
    calibration = Artifact.open(folder).calibration
    done = run(folder, "--data", data, "--rate", 0.3, "--keep-scores")
    assert done.exit_code == 0, done.output
    artifact = Artifact.open(folder)
    assert artifact.calibration == calibration
    assert artifact.category_thresholds == {"request": {"C1": 0.3}}
    (bound,) = artifact.miss_bounds["request"]
    assert bound.rows == sum(r.request_label == "unsafe" for r in made)
    assert "→" not in done.stdout


def test_thresholds_that_the_artifact_has_do_not_move_what_is_measured(
    folder: Path, rows: tuple[Path, list[Row]]
) -> None:
    def measured() -> Any:
        done = run(folder, "--data", rows[0], "--keep-scores", "--dry-run", "--json")
        return json.loads(done.stdout)["parts"]

    plain = measured()
    write(folder, thresholds={"request": {f"C{n}": 0.01 for n in range(1, 12)}})
    assert measured() == plain


def test_thresholds_of_categories_are_fitted_written_and_used(
    folder: Path, rows: tuple[Path, list[Row]], scores: dict[int, float]
) -> None:
    data, made = rows
    options = ("--keep-scores", "--per-category", "--category-rate", 0.3)
    # So that all rows lie below 0.5, and have their category from the second look.
    highest = max(scores.values())
    bias = Artifact.open(folder).calibration.get("request")
    assert bias is None
    write(folder, calibration={"request": _above(highest)})
    done = run(folder, "--data", data, "--rate", 0.3, *options, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)["parts"]["request"]
    artifact = Artifact.open(folder)
    thresholds = artifact.category_thresholds["request"]
    assert thresholds == report["category_thresholds"]
    effect = report["category_effect"]
    assert effect["misses_at_common"] == sum(r.request_label == "unsafe" for r in made)
    assert effect["misses"] < effect["misses_at_common"]
    with Guard.load(folder, threads=1) as guard:
        said = [guard.moderate(r.user).request.label for r in made]
    pairs = list(zip([r.request_label for r in made], said, strict=True))
    assert pairs.count(("unsafe", "safe")) == effect["misses"]
    assert pairs.count(("safe", "unsafe")) == effect["false_alarms"]


def _above(score: float) -> Any:
    """A calibration under which that score lies a little below 0.5."""
    from proguard_edge.artifact import Calibration

    return Calibration(bias=Calibration().difference(score) + 0.01)


def test_rows_that_no_score_comes_of_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", [row(1, None), row(2, None)])
    failed = run(folder, "--data", tmp_path / "r.jsonl")
    assert failed.exit_code == 3
    assert "error: of 2 rows none gives a labelled score (no labels)" in failed.stderr


def test_rows_of_one_class_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", [row(n, "unsafe") for n in range(4)])
    failed = run(folder, "--data", tmp_path / "r.jsonl")
    assert failed.exit_code == 3
    assert "error: request: calibration needs safe and unsafe rows" in failed.stderr


def test_options_of_categories_alone_are_a_usage_error(folder: Path, tmp_path: Path) -> None:
    failed = run(folder, "--data", tmp_path / "r.jsonl", "--allow-raise")
    assert failed.exit_code == 2
    assert "--per-category" in failed.stderr
