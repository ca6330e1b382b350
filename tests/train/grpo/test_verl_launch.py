"""Whose folder a run's folder is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proguard_edge.errors import TrainingError
from proguard_edge.policy import Policy
from proguard_edge.template import Template
from proguard_edge.train.rows import Row
from proguard_edge.train.verl.dataset import Prompting
from proguard_edge.train.verl.launch import Run, _claim
from proguard_edge.train.verl.overrides import Profile

ROW = Row("1", "test", "none", "Hi", None, Path("a/b.png"), "safe", None, None)


def run(out: Path, seed: int = 0) -> Run:
    prompting = Prompting(out / "model", Template.named("edge"), Policy.default())
    return Run(
        Profile.load("cpu-smoke"), prompting, out / "run", out / "embed", "python", seed=seed
    )


def claim(asked: Run, *rows: Row) -> None:
    _claim(asked, {"train": rows, "validation": [ROW]})


def test_the_same_run_goes_on_wherever_its_pictures_lie(tmp_path: Path) -> None:
    claim(run(tmp_path), ROW)
    claim(run(tmp_path), replace(ROW, image=Path("c/b.png")))


@pytest.mark.parametrize("rows", [(), (ROW, ROW), (replace(ROW, request_label="unsafe"),)])
def test_other_rows_are_another_run(tmp_path: Path, rows: tuple[Row, ...]) -> None:
    claim(run(tmp_path), ROW)
    with pytest.raises(TrainingError, match="another train rows: choose another folder"):
        claim(run(tmp_path), *rows)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    claim(run(tmp_path), ROW)
    with pytest.raises(TrainingError, match="another seed"):
        claim(run(tmp_path, seed=1), ROW)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="not empty"):
        claim(run(tmp_path), ROW)
