"""An INT4 artifact as GGUF: read back by the format's own library."""

from __future__ import annotations

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("onnxruntime_genai")

from artifacts import contents  # noqa: E402
from tiny import tiny_checkpoint  # noqa: E402

from proguard_edge.artifact import Artifact  # noqa: E402
from proguard_edge.bench.peers.gguf_model import pack_q4_1, write_gguf  # noqa: E402
from proguard_edge.errors import ArtifactError  # noqa: E402
from proguard_edge.export.onnx_artifact import export_onnx  # noqa: E402
from proguard_edge.train.unpack import decoder_weights  # noqa: E402


def test_a_block_is_what_the_library_makes_of_it():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 16, (5, 3, 32), np.uint8)
    scales = rng.uniform(0.01, 0.2, (5, 3)).astype(np.float16)
    zeros = rng.integers(0, 16, (5, 3), np.uint8)
    packed = pack_q4_1(levels, scales, zeros).reshape(5, -1)
    read = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1).reshape(5, 3, 32)
    expected = (levels.astype(np.float32) - zeros[..., None]) * scales.astype(np.float32)[..., None]
    assert np.abs(read - expected).max() < 2e-3  # m = −zero × scale is rounded to float16


def test_the_whole_model_comes_back(tiny, tmp_path):
    artifact = export_onnx(
        tiny, tmp_path / "artifact", contents(), precision="int4", embeddings="int8"
    )
    write_gguf(artifact, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "qwen2"
    assert fields["qwen2.rope.freq_base"] == 10000.0
    assert fields["qwen2.block_count"] == artifact.model["layers"]
    tensors = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1])
        for t in reader.tensors
    }
    weights = decoder_weights(artifact.folder / "decoder.onnx")
    assert len(tensors) == 1 + len(weights) + 6 - sum("bias" in name for name in weights)
    for ours, theirs in (
        ("layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight"),
        ("layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
        ("norm.weight", "output_norm.weight"),
    ):
        assert np.abs(tensors[theirs] - weights[ours]).max() < 1e-3 * np.abs(weights[ours]).max()
    scales = np.load(artifact.path("embeddings.scales.npy")).astype(np.float32)
    table = np.load(artifact.path("embeddings.npy")) * np.repeat(scales, 32, axis=1)
    assert np.array_equal(tensors["token_embd.weight"], table)


def test_other_artifacts_are_refused(tiny_onnx, tmp_path):
    with pytest.raises(ArtifactError, match="only INT4"):
        write_gguf(Artifact.open(tiny_onnx), tmp_path / "m.gguf")
    untied = tiny_checkpoint(tmp_path / "untied", tied=False)
    artifact = export_onnx(
        untied, tmp_path / "artifact", contents(), precision="int4", embeddings="int8"
    )
    with pytest.raises(ArtifactError, match="tied head"):
        write_gguf(artifact, tmp_path / "m.gguf")
