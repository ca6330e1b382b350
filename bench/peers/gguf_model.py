"""An INT4 artifact of ours as a GGUF file: the same integers, for llama.cpp and OpenVINO GenAI.

Weights in blocks of 32 along the inputs: (level − zero) × scale here, level × d + m in GGUF's Q4_1
with d = scale and m = −zero × scale, both float16; the table's int8 × scale is Q8_0 as it stands.
Only m is rounded anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact
from proguard_edge.errors import ArtifactError
from proguard_edge.export.decoder_weights import DecoderWeights, Packed
from proguard_edge.export.extras import need
from proguard_edge.export.nbits import halves

BLOCK = 32
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def write_gguf(artifact: Artifact, out: Path) -> None:
    """Write the language model of an `onnx-int4` artifact with a tied head; it has no tokenizer.

    Raises ArtifactError for another kind of artifact.
    """
    need("gguf", extra="peers")
    import gguf

    shape = artifact.manifest["model"]
    if artifact.precision != "int4" or not shape["tied"]:
        raise ArtifactError(f"{artifact.folder}: only INT4 with a tied head can become GGUF")
    decoder = DecoderWeights(artifact.folder / "decoder.onnx")
    matrices = {name.removesuffix(".weight"): parts for name, parts in decoder.matrices()}
    outputs = {name: len(parts["Q"]) for name, parts in matrices.items()}
    writer = gguf.GGUFWriter(out, "qwen2")
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(outputs["layers.0.mlp.gate_proj"])
    writer.add_head_count(outputs["layers.0.self_attn.q_proj"] // shape["head_dim"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_rope_freq_base(decoder.rope_base)
    writer.add_layer_norm_rms_eps(decoder.epsilon)
    writer.add_vocab_size(shape["vocab"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_tokenizer_model("none")
    kinds = gguf.GGMLQuantizationType
    writer.add_tensor("token_embd.weight", _table(artifact), raw_dtype=kinds.Q8_0)
    for name, parts in matrices.items():
        writer.add_tensor(_named(f"{name}.weight"), _packed(name, parts), raw_dtype=kinds.Q4_1)
    vectors = dict(decoder.vectors())
    for layer in range(shape["layers"]):
        for what in BIASED:
            # The format wants those, too, that are zero.
            zeros = np.zeros(outputs[f"layers.{layer}.{what}"], np.float32)
            vectors.setdefault(f"layers.{layer}.{what}.bias", zeros)
    for name, vector in vectors.items():
        writer.add_tensor(_named(name), vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(name: str) -> str:
    """GGUF's name of a checkpoint's tensor."""
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, rest = name.split(".", 2)
    what, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[what]}.{kind}"


def _packed(name: str, parts: Packed) -> NDArray[np.uint8]:
    rows, count, size = parts["Q"].shape
    if 2 * size != BLOCK:
        raise ArtifactError(f"{name}: blocks of {2 * size}; GGUF has them of {BLOCK}")
    zeros = halves(parts["zeros"])[:, :count]
    return pack_q4_1(halves(parts["Q"]), parts["scales"], zeros).reshape(rows, -1)


def pack_q4_1(
    levels: NDArray[np.uint8], scales: NDArray[Any], zeros: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Bytes uint8 [N, blocks, 20] of levels uint8 [N, blocks, 32], scales and zeros [N, blocks]."""
    d = scales.astype(np.float16)
    m = (-zeros.astype(np.float32) * scales.astype(np.float32)).astype(np.float16)
    low, high = levels[..., : BLOCK // 2], levels[..., BLOCK // 2 :]
    nibbles = low | np.left_shift(high, 4, dtype=np.uint8)
    head = np.stack([d, m], axis=-1).view(np.uint8)
    found: NDArray[np.uint8] = np.concatenate([head, nibbles], axis=-1)
    return found


def _table(artifact: Artifact) -> NDArray[np.uint8]:
    values = np.load(artifact.path("embeddings.npy"))
    if values.dtype != np.int8:
        raise ArtifactError(f"{artifact.folder}: its embeddings are not of 8 bits")
    scales = np.load(artifact.path("embeddings.scales.npy"))
    rows, count = scales.shape
    blocks = values.reshape(rows, count, -1)
    if blocks.shape[2] != BLOCK:
        raise ArtifactError(f"{artifact.folder}: embeddings in blocks of {blocks.shape[2]}")
    head = scales.astype(np.float16)[..., None].view(np.uint8)
    found = np.concatenate([head, blocks.view(np.uint8)], axis=-1)
    return found.reshape(rows, -1)
