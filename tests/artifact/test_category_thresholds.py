"""Thresholds of categories in a manifest: read, refused where they make no sense, bounded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from proguard_edge.artifact import Artifact, write_artifact
from proguard_edge.errors import ArtifactError

DESCRIPTION = {
    "name": "small",
    "engine": "onnx",
    "precision": "int4",
    "modalities": ["text"],
    "modes": ["verdict"],
    "model": {},
    "calibration": {"request": {"bias": -0.5, "temperature": 2.0}},
}


def with_thresholds(folder: Path, thresholds: Any, **more: Any) -> Artifact:
    for name in ("tokenizer.json", "policy.yaml", "template.jinja"):
        (folder / name).write_text("{}")
    return write_artifact(folder, {**DESCRIPTION, "category_thresholds": thresholds, **more})


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    thresholds = {"request": {"C1": 0.3, "C10S2": 0.75}, "response": {"C4": 0.2}}
    assert with_thresholds(tmp_path, thresholds).category_thresholds == thresholds


def test_a_manifest_without_them_has_none(tmp_path: Path) -> None:
    assert with_thresholds(tmp_path, {}).category_thresholds == {}


@pytest.mark.parametrize(
    "score", [math.nan, math.inf, -math.inf, 0, 1, -0.1, 1.1, 1e-300, True, None, "x", [0.3], {}]
)
def test_a_threshold_outside_0_to_1_is_refused(tmp_path: Path, score: Any) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        with_thresholds(tmp_path, {"request": {"C1": score}})


@pytest.mark.parametrize(
    "thresholds",
    [
        {"both": {"C1": 0.3}},
        {"request": {"": 0.3}},
        {"request": {"c1": 0.3}},
        {"request": {"Arson": 0.3}},
        {"request": {"C1\n": 0.3}},
        {"request": {"C1S": 0.3}},
        {"request": 0.3},
        {"request": None},
        {"request": [["C1", 0.3]]},
        {"C1": 0.3},
        [],
        None,
        0.3,
    ],
)
def test_what_is_no_table_of_categories_is_refused(tmp_path: Path, thresholds: Any) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        with_thresholds(tmp_path, thresholds)


@pytest.mark.parametrize(("asked", "bound"), [(0.02, 0.1), (0.1, 0.7)])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.6])
def test_under_a_bound_the_lower_of_the_two_is_one_half(
    tmp_path: Path, asked: float, bound: float, threshold: float
) -> None:
    bounds = [
        {"rate": 0.02, "threshold": 0.1, "confidence": 0.95, "rows": 400},
        {"rate": 0.1, "threshold": 0.7, "confidence": 0.95, "rows": 400},
    ]
    artifact = with_thresholds(
        tmp_path, {"request": {"C1": threshold}}, miss_bounds={"request": bounds}
    )
    own, bounded = artifact.calibration["request"], artifact.bounded(asked)
    begins = bounded.category_thresholds["request"]["C1"]
    moved = bounded.calibration["request"]
    lower = min(bound, threshold, 0.5)
    assert begins <= 0.5
    assert moved.score(own.difference(lower)) == pytest.approx(begins)
