"""A checkpoint's weights out of an artifact of 4 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tiny import tiny_checkpoint

from proguard_edge.artifact import Artifact
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.folder import Contents
from proguard_edge.export.nbits import pack, unpack
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.policy import Policy
from proguard_edge.template import Template
from proguard_edge.train.unpack import decoder_weights, unpack_starter

CONTENTS = Contents(Policy.default(), Template.named("edge"), "tiny guard", modalities=("text",))


def export(checkpoint: Path, out: Path, precision: str) -> Artifact:
    options = {"compact_scales": True} if precision == "int4" else {}
    return export_onnx(checkpoint, out, CONTENTS, precision=precision, embeddings="int8", **options)


def test_every_weight_comes_back_as_the_kernel_sees_it(tiny: Path, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "artifact", "int4")
    # As recipes leave it: linked to the step that made it.
    (tmp_path / "kept").hardlink_to(artifact.folder / "decoder.onnx.data")
    found = decoder_weights(artifact.folder / "decoder.onnx")
    checkpoint = Checkpoint(tiny)
    assert {"norm.weight", "layers.1.mlp.down_proj.weight"} < set(found)
    for name, weight in found.items():
        expected = checkpoint.tensor(f"model.language_model.{name}", f"model.{name}")
        if name.endswith("_proj.weight"):
            packed = pack(expected.T, 4, 32, True)
            expected = unpack(packed, expected.shape[1], 4).T
        assert np.array_equal(weight, expected), name
    text = checkpoint.config.text_config
    matrices = [name for name in found if name.endswith("_proj.weight")]
    assert len(matrices) == 7 * text.num_hidden_layers


def test_what_is_not_the_starter_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = export(tiny, tmp_path / "artifact", "int4")
    monkeypatch.setattr(
        "proguard_edge.train.unpack.build_base", lambda out: tiny_checkpoint(out, layers=3)
    )
    with pytest.raises(ArtifactError, match="not the starter's shape"):
        unpack_starter(artifact, tmp_path / "checkpoint")


def test_matrices_of_8_bits_are_refused(tiny: Path, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "artifact", "int8")
    with pytest.raises(ArtifactError, match="not of 4 bits"):
        decoder_weights(artifact.folder / "decoder.onnx")
