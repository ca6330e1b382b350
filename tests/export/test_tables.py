"""Token tables: what is written is what the engine reads."""

from __future__ import annotations

import numpy as np
import pytest

from proguard_edge.artifact import write_artifact
from proguard_edge.engine.table import TokenTable
from proguard_edge.errors import ArtifactError
from proguard_edge.export import tables
from proguard_edge.export.tables import write_table


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)


def read(folder):
    for name in ("tokenizer.json", "policy.yaml", "template.jinja"):
        (folder / name).touch()
    description = {
        "engine": "onnx",
        "precision": "fp32",
        "modalities": ["text"],
        "modes": ["verdict"],
        "model": {},
        "name": "table",
    }
    return TokenTable(write_artifact(folder, description), "t")


# Relative to weights of deviation 1: half of float16's last bit at 4; half of a step of 4/127.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 0.002), ("int8", 0.02)]
)
def test_rows_come_back(tmp_path, weights, monkeypatch, dtype, tolerance):
    monkeypatch.setattr(tables, "CHUNK_ROWS", 33)
    write_table(weights, tmp_path, "t", dtype)
    table = read(tmp_path)
    ids = np.array([0, 32, 33, 99, 5])
    assert table.shape == weights.shape
    np.testing.assert_allclose(table.rows(ids), weights[ids], atol=tolerance, rtol=0)
    hidden = np.ones(64, np.float32)
    np.testing.assert_allclose(table.logits(hidden)[ids], table.logits(hidden, ids), rtol=1e-5)


def test_int8_uses_no_level_that_has_no_negative(tmp_path, weights):
    write_table(-np.abs(weights), tmp_path, "t", "int8")
    assert np.load(tmp_path / "t.npy").min() == -127


def test_a_width_that_blocks_do_not_divide_is_refused(tmp_path, weights):
    with pytest.raises(ArtifactError, match="blocks of 48"):
        write_table(weights, tmp_path, "t", "int8", block=48)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e6), ("float32", np.nan)])
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, dtype, value):
    weights[50, 3] = value
    with pytest.raises(ArtifactError, match="do not fit"):
        write_table(weights, tmp_path, "t", dtype)


def test_an_unknown_type_is_refused(tmp_path, weights):
    with pytest.raises(ArtifactError, match="known are float32"):
        write_table(weights, tmp_path, "t", "int4")
