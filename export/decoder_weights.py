"""Weights out of a decoder's graph, by layer and by the names that checkpoints give them.

The graph's own names are those of onnxruntime-genai's builder, see `onnx_decoder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.extras import need

Packed = dict[str, NDArray[Any]]

MATRIX = re.compile(r"model\.layers\.(\d+)\.(attn|mlp)\.(\w+_proj)\.MatMul\.weight\.Q")
BIAS = re.compile(r"model\.layers\.(\d+)\.(attn)\.(\w_proj)\.Add\.bias")
NORM = re.compile(r"model\.layers\.(\d+)\.(input|post_attention)_layernorm\.weight")
FINAL_NORM = re.compile(r"model\.layers\.\d+\.final_norm_layernorm\.weight")
BLOCKS = {"attn": "self_attn", "mlp": "mlp"}


class DecoderWeights:
    """A `decoder.onnx` whose matrices are MatMulNBits of 4 bits with zero points.

    Raises ArtifactError on construction for another one, and without the package `onnx-ir`.
    """

    def __init__(self, graph: Path) -> None:
        need("onnx_ir")
        import onnx_ir as ir

        self._graph, self._data = ir.load(graph).graph, graph.with_name(f"{graph.name}.data")
        self._arrays = self._graph.initializers
        bits = {
            node.inputs[1].name: node.attributes["bits"].as_int()
            for node in self._graph
            if node.op_type == "MatMulNBits"
        }
        other = [name for name, value in bits.items() if value != 4 or not MATRIX.fullmatch(name)]
        if other or not bits:
            raise ArtifactError(f"{graph}: {other[0] if other else 'no matrix'} is not of 4 bits")

    def matrices(self) -> Iterator[tuple[str, Packed]]:
        """`layers.0.self_attn.q_proj.weight` and its arrays, see `nbits.pack`."""
        for name in self._arrays:
            if match := MATRIX.fullmatch(name):
                layer, block, projection = match.groups()
                stem = name.removesuffix("Q")
                parts = {part: self._array(stem + part) for part in ("Q", "scales", "zeros")}
                yield f"layers.{layer}.{BLOCKS[block]}.{projection}.weight", parts

    def vectors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Biases and norms; biases that are zero the builder leaves out."""
        for name in self._arrays:
            if match := BIAS.fullmatch(name):
                layer, block, projection = match.groups()
                yield f"layers.{layer}.{BLOCKS[block]}.{projection}.bias", self._array(name)
            elif match := NORM.fullmatch(name):
                layer, which = match.groups()
                yield f"layers.{layer}.{which}_layernorm.weight", self._array(name)
            elif FINAL_NORM.fullmatch(name):
                yield "norm.weight", self._array(name)

    @cached_property
    def epsilon(self) -> float:
        """Of the norms."""
        for node in self._graph:
            if node.op_type == "SimplifiedLayerNormalization":
                return float(node.attributes["epsilon"].as_float())
        raise ArtifactError("the decoder's graph holds no norm")

    @cached_property
    def rope_base(self) -> float:
        """Of sin(base ** (−2 / d)), which the cache holds for position 1 and dimension 1."""
        sines = self._array("sin_cache").astype(np.float64)
        return float(round(np.arcsin(sines[1, 1]) ** -sines.shape[1]))

    def _array(self, name: str) -> NDArray[Any]:
        tensor = self._arrays[name].const_value
        if not hasattr(tensor, "offset"):
            return np.array(tensor.numpy())
        # Read here: the library refuses files with several hard links, as recipes leave them.
        dtype, shape = tensor.dtype.numpy(), tuple(map(int, tensor.shape))
        return np.array(np.memmap(self._data, dtype, "r", int(tensor.offset or 0), shape))
