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


def read(folder, rows=100, hidden=64):
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
    return TokenTable(write_artifact(folder, description), "t", rows, hidden)


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


def test_a_token_without_a_row_is_an_error(tmp_path, weights):
    write_table(weights, tmp_path, "t", "float32")
    with pytest.raises(ArtifactError, match="token 100, the model has 100"):
        read(tmp_path).rows(np.array([3, 100]))


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [(99, 64), (101, 64), (100, 32), (100, 128), (64, 100)])
def test_a_table_of_another_shape_is_refused(tmp_path, weights, dtype, shape):
    write_table(weights, tmp_path, "t", dtype)
    with pytest.raises(ArtifactError, match=rf"no table of {shape[0]} rows of {shape[1]} numbers"):
        read(tmp_path, *shape)


@pytest.mark.parametrize(
    "scales",
    [
        np.ones((99, 2), np.float16),
        np.ones((100, 3), np.float16),
        np.ones((100, 0), np.float16),
        np.ones((100, 2), np.int32),
        np.full((100, 2), "1"),
    ],
    ids=lambda scales: f"{scales.dtype} {scales.shape}",
)
def test_scales_that_do_not_belong_to_the_table_are_refused(tmp_path, weights, scales):
    write_table(weights, tmp_path, "t", "int8")
    np.save(tmp_path / "t.scales.npy", scales)
    with pytest.raises(ArtifactError, match="no table of 100 rows"):
        read(tmp_path)


def test_numbers_of_another_kind_than_was_written_are_refused(tmp_path, weights):
    write_table(weights, tmp_path, "t", "int8")
    (tmp_path / "t.scales.npy").unlink()
    with pytest.raises(ArtifactError, match="no table"):
        read(tmp_path)
    for wrong in (weights.astype(np.float64), weights.astype(np.int32), weights > 0):
        np.save(tmp_path / "t.npy", wrong)
        with pytest.raises(ArtifactError, match="no table"):
            read(tmp_path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"not numpy", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)],
    ids=repr,
)
def test_a_file_that_is_no_table_is_refused(tmp_path, raw):
    (tmp_path / "t.npy").write_bytes(raw)
    with pytest.raises(ArtifactError, match="not a table of numbers"):
        read(tmp_path)
