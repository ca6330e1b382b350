"""Take the integers of a GPTQ checkpoint over into the decoder's graph: nothing is rounded twice.

Each matrix of the float32 graph finds its layer by name; that it is the right one is then seen in
the values, since what GPTQ rounded still lies close to the matrix that it rounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.gptq_layout import MIDDLE, GptqCheckpoint, GptqLinear
from proguard_edge.export.nbits import halves, insert, matrices, pairs

NODE = re.compile(r"layers\.(\d+)[/.](?:self_)?(attn|mlp)[/.](\w+_proj)\b")
# Matrices that the model builder may lay side by side, in its order.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
KERNEL_BLOCKS = (16, 32, 64, 128, 256)
# 4 bits lose 0.1 of a matrix, and up to 0.26 where GPTQ lets weights move for the outputs' sake;
# two matrices that have nothing in common differ by 1.4.
LARGEST_ERROR = 0.5


def take_over(
    model: Any, gptq: GptqCheckpoint, accuracy_level: int = 0, compact_scales: bool = False
) -> int:
    """Replace every constant matrix of an onnx-ir model by GPTQ's integers; how many there were.

    Options: see `quantize_graph`; scales are GPTQ's float16 numbers in either type.
    Raises ArtifactError: a matrix that the folder left as it was, a layer of the folder that the
    graph lacks, integers of another checkpoint, or groups that the kernel cannot read.
    """
    if gptq.group_size not in KERNEL_BLOCKS:
        known = ", ".join(map(str, KERNEL_BLOCKS))
        raise ArtifactError(f"{gptq.folder}: groups of {gptq.group_size}; the kernel reads {known}")
    attributes = {"bits": 4, "block_size": gptq.group_size}
    if accuracy_level:
        attributes["accuracy_level"] = accuracy_level
    nodes = matrices(model)
    used: list[str] = []
    for node in nodes:
        names = layer_names(node.name, gptq)
        layers = [gptq.linear(name) for name in names]
        weight = np.asarray(node.inputs[1].const_value.numpy(), np.float32)
        _check_origin(weight, layers, names)
        packed = pack_layers(layers)
        if not compact_scales:
            packed["scales"] = packed["scales"].astype(np.float32)
        insert(model.graph, node, packed, attributes)
        used += names
    if left := sorted(set(gptq.names) - set(used)):
        raise ArtifactError(f"{gptq.folder}: the decoder's graph has no place for {left[0]}")
    return len(nodes)


def check_integers(decoder: Path, gptq: GptqCheckpoint) -> int:
    """Raises ArtifactError unless `decoder`, an ONNX file, holds exactly the integers, zeros and
    scales of the GPTQ folder, and no other matrix; the number of weights compared."""
    import onnx_ir as ir

    model: Any = ir.load(decoder)
    count = 0
    used: list[str] = []
    for node in model.graph:
        if node.op_type == "MatMul" and node.inputs[1].const_value is not None:
            raise ArtifactError(f"{decoder}: {node.name} was not taken over")
        if node.op_type != "MatMulNBits":
            continue
        names = layer_names(node.name, gptq)
        found = _stored(node, gptq.group_size)
        start = 0
        for name in names:
            expected = gptq.linear(name)
            end = start + expected.levels.shape[1]
            for part in ("levels", "zeros", "scales"):
                # float16 numbers are compared as they are, and as float32 they are the same.
                if not np.array_equal(found[part][:, start:end], getattr(expected, part)):
                    raise ArtifactError(f"{decoder}: the {part} of {name} are not those of GPTQ")
            count += expected.levels.size
            start = end
        used += names
    if set(used) != set(gptq.names):
        raise ArtifactError(f"{decoder}: {len(set(used))} layers, GPTQ has {len(gptq.names)}")
    return count


def layer_names(node: str, gptq: GptqCheckpoint) -> list[str]:
    """Layers of the folder that the node of that name multiplies by, side by side.

    Raises ArtifactError for a node that is none of the decoder's projections, and for a projection
    that the folder left unrounded: a decoder of 4 bits with some matrices of 32 is not made.
    """
    match = NODE.search(node)
    if match is None:
        raise ArtifactError(f"{node}: no projection of the decoder")
    index, block, kind = match.groups()
    block = {"attn": "self_attn"}.get(block, block)
    wanted = [f"layers.{index}.{block}.{part}" for part in FUSED.get(kind, (kind,))]
    if missing := [name for name in wanted if name not in gptq.decoder]:
        raise ArtifactError(f"{gptq.folder}: {missing[0]} is not rounded; all projections must be")
    return [gptq.decoder[name] for name in wanted]


def pack_layers(layers: Sequence[GptqLinear]) -> dict[str, NDArray[Any]]:
    """Layers side by side as MatMulNBits stores them: "Q" uint8 [N, groups, g/2], "scales" float16
    [N, groups], and "zeros" uint8 [N, (groups + 1) / 2] unless all are the middle level."""
    group = layers[0].group_size
    levels = np.concatenate([layer.levels.T for layer in layers])
    scales = np.concatenate([layer.scales.T for layer in layers])
    packed: dict[str, NDArray[Any]] = {
        "Q": pairs(levels.reshape(len(levels), -1, group)),
        "scales": np.ascontiguousarray(scales),
    }
    if not all(layer.symmetric for layer in layers):
        packed["zeros"] = pairs(np.concatenate([layer.zeros.T for layer in layers]))
    return packed


def _stored(node: Any, group: int) -> dict[str, NDArray[Any]]:
    """Levels [K, N], zeros and scales [groups, N] of a MatMulNBits node, as GPTQ lays them out."""
    if node.attributes["bits"].value != 4 or node.attributes["block_size"].value != group:
        raise ArtifactError(f"{node.name}: other bits or groups than those of GPTQ")
    arrays = []
    for value in node.inputs[1:]:
        if value.const_value is None:
            value = value.producer().inputs[0]
        arrays.append(value.const_value.numpy())
    levels, scales = halves(arrays[0]), arrays[1]
    groups = scales.shape[1]
    zeros = halves(arrays[2])[:, :groups] if len(arrays) > 2 else np.full(scales.shape, MIDDLE)
    return {"levels": levels.reshape(len(levels), -1).T, "zeros": zeros.T, "scales": scales.T}


def _check_origin(
    weight: NDArray[np.float32], layers: Sequence[GptqLinear], names: Sequence[str]
) -> None:
    """Raises ArtifactError unless `weight` [K, N] is what the layers, side by side, round."""
    columns = [layer.levels.shape[1] for layer in layers]
    if weight.shape != (layers[0].levels.shape[0], sum(columns)):
        raise ArtifactError(f"{names[0]}: its shape is not that of the checkpoint")
    parts = np.split(weight, np.cumsum(columns)[:-1], axis=1)
    for name, part, layer in zip(names, parts, layers, strict=True):
        if not relative_error(part, layer) < LARGEST_ERROR:
            raise ArtifactError(
                f"{name}: its integers do not round this checkpoint's weights; give the checkpoint "
                "that GPTQ was run on"
            )


def relative_error(weight: NDArray[np.float32], layer: GptqLinear) -> float:
    """Root of the mean square of what rounding changed, over that of `weight` [in, out]."""
    lost = np.square(layer.dequantize() - weight).sum(dtype=np.float64)
    return float(np.sqrt(lost / max(np.square(weight).sum(dtype=np.float64), 1e-30)))
