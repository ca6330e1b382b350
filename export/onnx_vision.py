"""The vision tower in ONNX: `vision.onnx` and `vision.onnx.data`.

The graph is written node by node from the weights, so that attention can stay inside windows:
window layers see [windows, 64, C] batches instead of an N × N mask. Inputs are what
`proguard_edge.engine.vision_layout` computes for N patches: pixels float32 [N, 3 × 2 × 14 × 14] in
reading order; cos, sin float32 [N, D], perm, window_ids, frame_ids int64 [N], inv int64 [N / 4].
Output: features float32 [N / 4, H].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import need
from proguard_edge.export.graph import GraphWriter, save
from proguard_edge.export.nbits import quantize_graph

VisionPrecision = Literal["fp32", "fp16w", "int8"]
NAME = "vision.onnx"
EPSILON = 1e-6


def export_vision(
    checkpoint: Path | Checkpoint, out: Path, precision: VisionPrecision = "fp32"
) -> tuple[Path, Path]:
    """Write the vision tower into `out`; the two files. Equal inputs, equal bytes.

    precision: "fp16w" stores matrices as float16, "int8" as 8 bits in blocks of 32; both compute in
    float32.
    Raises ArtifactError: not a checkpoint that can be exported, or weights too large for float16.
    """
    need("onnx_ir", "safetensors", "torch")
    if precision not in get_args(VisionPrecision):
        known = ", ".join(get_args(VisionPrecision))
        raise ArtifactError(f"no vision precision {precision!r}; known are {known}")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    config = checkpoint.config.vision_config
    if config.hidden_act != "silu":
        raise ArtifactError(f"a vision tower with {config.hidden_act} cannot be exported")
    writer = GraphWriter("vision", half_matrices=precision == "fp16w")
    _Tower(writer, checkpoint, config).write()
    model = writer.model()
    if precision == "int8":
        quantize_graph(model, 8, compact_scales=True)
    return save(model, out / NAME)


@dataclass(frozen=True)
class _Segments:
    """Patches of one window or one frame, padded to the longest: tables as graph values.

    at int64 [W, L]: the patch at each place; slots int64 [N]: the place of each patch; lengths
    int32 [W]; single bool []: whether there is one segment only, so that nothing is padded.
    """

    at: Any
    slots: Any
    lengths: Any
    single: Any


class _Tower:
    """Writes the nodes of a Qwen2.5-VL vision tower. Method arguments and results are values."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, config: Any) -> None:
        self.w, self._checkpoint, self._config = writer, checkpoint, config
        self.width, self.heads = int(config.hidden_size), int(config.num_heads)

    def write(self) -> None:
        w, config = self.w, self._config
        unit = config.spatial_merge_size**2
        pixel_width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        pixels = w.input("pixels", "float32", ["N", pixel_width])
        head_dim = self.width // self.heads
        halves = [w.input(name, "float32", ["N", head_dim]) for name in ("cos", "sin")]
        perm = w.input("perm", "int64", ["N"])
        inv = w.input("inv", "int64", ["tokens"])
        windows = self._segments(w.input("window_ids", "int64", ["N"]))
        frames = self._segments(w.input("frame_ids", "int64", ["N"]))
        # The halves of a row are equal, and the kernel wants one of them.
        self._rotary = [w.split(table, 2, axis=1)[0] for table in halves]
        self._order = w.op("Unsqueeze", self._range(perm), w.ints([0]))
        # The kernel of the patch convolution is as large as its stride: a matrix product.
        x = self._linear(w.op("Gather", pixels, perm), "patch_embed.proj", bias=False)
        for i in range(config.depth):
            whole = i in config.fullatt_block_indexes
            x = self._block(x, f"blocks.{i}", frames if whole else windows, whole)
        x = self._norm(x, "merger.ln_q")
        x = w.op("Reshape", x, w.ints([-1, unit * self.width]))
        x = w.op("Gelu", self._linear(x, "merger.mlp.0"))
        x = self._linear(x, "merger.mlp.2")
        w.output(w.op("Gather", x, inv), "features", "float32", ["tokens", config.out_hidden_size])

    def _block(self, x: Any, name: str, segments: _Segments, whole: bool) -> Any:
        w = self.w
        y = self._attention(self._norm(x, f"{name}.norm1"), f"{name}.attn", segments, whole)
        x = w.op("Add", x, y)
        y = self._norm(x, f"{name}.norm2")
        gate = self._linear(y, f"{name}.mlp.gate_proj")
        gate = w.op("Mul", gate, w.op("Sigmoid", gate))
        y = w.op("Mul", gate, self._linear(y, f"{name}.mlp.up_proj"))
        return w.op("Add", x, self._linear(y, f"{name}.mlp.down_proj"))

    def _attention(self, x: Any, name: str, segments: _Segments, whole: bool) -> Any:
        w = self.w
        query, key, value = w.split(self._linear(x, f"{name}.qkv"), 3, axis=1)
        query, key = self._rotate(query), self._rotate(key)
        padded = [w.op("Gather", part, segments.at) for part in (query, key, value)]

        def attend(*lengths: Any) -> Any:
            # Without the lengths, onnxruntime takes the kernel that never holds L × L scores.
            inputs = [*padded, *([None, *lengths] if lengths else [])]
            return w.op("MultiHeadAttention", *inputs, domain="com.microsoft", num_heads=self.heads)

        if whole:
            y = w.choose(segments.single, attend, lambda: attend(segments.lengths))
        else:
            y = attend(segments.lengths)
        y = w.op("Reshape", y, w.ints([-1, self.width]))
        return self._linear(w.op("Gather", y, segments.slots), f"{name}.proj")

    def _rotate(self, x: Any) -> Any:
        """Rotary positions on [N, heads × D]."""
        w = self.w
        x = w.op("Unsqueeze", x, w.ints([0]))
        x = w.op("RotaryEmbedding", x, self._order, *self._rotary, domain="com.microsoft")
        return w.op("Squeeze", x, w.ints([0]))

    def _segments(self, ids: Any) -> _Segments:
        """Tables of the segments whose ids [N] begin at 0 and never decrease."""
        w = self.w
        counts = w.ops("Unique", ids, outputs=4)[3]
        starts = w.op("Sub", w.op("CumSum", counts, w.ints(0)), counts)
        longest = w.op("ReduceMax", counts, keepdims=0)
        rank = w.op("Sub", self._range(ids), w.op("Gather", starts, ids))
        slots = w.op("Add", w.op("Mul", ids, longest), rank)
        places = w.op("Range", w.ints(0), longest, w.ints(1))
        at = w.op("Add", w.op("Unsqueeze", starts, w.ints([1])), places)
        # Places behind the end of the last segment repeat the last patch; nothing looks at them.
        last = w.op("Sub", w.op("Size", ids), w.ints(1))
        return _Segments(
            at=w.op("Min", at, last),
            slots=slots,
            lengths=w.op("Cast", counts, to="int32"),
            single=w.op("Equal", w.op("Size", counts), w.ints(1)),
        )

    def _range(self, like: Any) -> Any:
        """int64 [N]: 0, 1, … N − 1."""
        return self.w.op("Range", self.w.ints(0), self.w.op("Size", like), self.w.ints(1))

    def _norm(self, x: Any, name: str) -> Any:
        scale = self.w.vector(f"{name}.weight", self._weight(f"{name}.weight"))
        return self.w.op("SimplifiedLayerNormalization", x, scale, epsilon=EPSILON, axis=-1)

    def _linear(self, x: Any, name: str, *, bias: bool = True) -> Any:
        weight = self._weight(f"{name}.weight")
        matrix = weight.reshape(len(weight), -1).T
        y = self.w.op("MatMul", x, self.w.matrix(f"{name}.weight", matrix))
        if not bias:
            return y
        return self.w.op("Add", y, self.w.vector(f"{name}.bias", self._weight(f"{name}.bias")))

    def _weight(self, name: str) -> Any:
        return self._checkpoint.tensor(f"visual.{name}", f"model.visual.{name}")
