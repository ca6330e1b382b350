"""The vision tower in ONNX against transformers' own."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from proguard_edge.engine.vision_layout import vision_layout
from proguard_edge.errors import ArtifactError
from proguard_edge.export.onnx_vision import export_vision

SETTINGS = {"merge_size": 2, "window_size": 112, "patch_size": 14, "head_dim": 16}
# One merge block; whole windows; windows cut at both edges; a strip; two pictures; two frames.
GRIDS = (
    [(1, 2, 2)],
    [(1, 16, 16)],
    [(1, 20, 28)],
    [(1, 6, 34)],
    [(1, 16, 16), (1, 22, 30)],
    [(2, 10, 12)],
)


def features(path, grids):
    pixels = np.random.default_rng(0).normal(size=(sum(map(np.prod, grids)), 1176))
    layout = vision_layout(grids, **SETTINGS)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = pixels.astype(np.float32)
    return pixels, session.run(["features"], {"pixels": pixels, **vars(layout)})[0]


def reference(model, pixels, grids):
    import torch

    with torch.no_grad():
        return model.model.visual(torch.tensor(pixels), torch.tensor(grids)).pooler_output.numpy()


@pytest.mark.parametrize("grids", GRIDS, ids=str)
def test_features_equal_those_of_transformers(fp32, model, grids):
    pixels, found = features(fp32.path("vision.onnx"), grids)
    # fp32 against fp32: 5e-6 was measured on features of deviation 0.7.
    np.testing.assert_allclose(found, reference(model, pixels, grids), atol=1e-4)


# Features have a deviation of 0.7; 0.002 and 0.045 were measured on 32 weights a row.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16w", 0.005), ("int8", 0.1)])
def test_smaller_weights_stay_close(checkpoint, model, fp32, tmp_path, precision, tolerance):
    path, data = export_vision(checkpoint, tmp_path, precision)
    pixels, found = features(path, GRIDS[2])
    difference = np.abs(found - reference(model, pixels, GRIDS[2])).max()
    assert 0 < difference < tolerance
    assert data.stat().st_size < 0.6 * fp32.path("vision.onnx.data").stat().st_size


def test_equal_checkpoints_give_equal_bytes(checkpoint, fp32, tmp_path):
    for path in export_vision(checkpoint, tmp_path):
        assert path.read_bytes() == fp32.path(path.name).read_bytes()


def test_an_unknown_precision_is_refused(checkpoint, tmp_path):
    with pytest.raises(ArtifactError, match="known are fp32, fp16w, int8"):
        export_vision(checkpoint, tmp_path, "int3")
