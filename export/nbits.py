"""Replace the MatMul nodes of a graph by MatMulNBits: weights of 4 or 8 bits in blocks.

Layout (onnxruntime's com.microsoft.MatMulNBits): weights uint8 [N, blocks, block × bits / 8], the
first of two 4-bit levels in the low half; scales [N, blocks]; zero points uint8 [N, blocks] of 8
bits, [N, (blocks + 1) / 2] of 4 bits, packed in the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.rounding import Blocks, round_blocks

Floats = NDArray[np.float32]


def quantize_graph(
    model: Any,
    bits: int,
    block: int = 32,
    accuracy_level: int = 0,
    compact_scales: bool = False,
    search: bool = True,
) -> int:
    """Round every constant matrix of a MatMul of an onnx-ir model in place; how many there were.

    bits: 4 or 8. accuracy_level: 0 keeps activations in float32, 4 lets the kernel round them to
    8 bits. compact_scales: store scales as float16, cast to float32 when the session starts.
    search: see `round_blocks`.
    Raises ArtifactError: a graph without such nodes, or weights that are not finite.
    """
    attributes = {"bits": bits, "block_size": block}
    if accuracy_level:
        attributes["accuracy_level"] = accuracy_level
    nodes = matrices(model)
    for node in nodes:
        _replace(model.graph, node, attributes, compact_scales, search)
    return len(nodes)


def matrices(model: Any) -> list[Any]:
    """The MatMul nodes of an onnx-ir model whose second input is constant.

    Raises ArtifactError when there are none.
    """
    nodes = [
        node
        for node in model.graph
        if node.op_type == "MatMul" and node.inputs[1].const_value is not None
    ]
    if not nodes:
        raise ArtifactError("the decoder's graph holds no matrices to quantize")
    return nodes


def pack(
    weight: Floats, bits: int, block: int, half_scales: bool, search: bool = True
) -> dict[str, NDArray[Any]]:
    """`weight` float32 [K, N] as MatMulNBits stores it: arrays "Q", "scales", "zeros".

    K is filled up with zeros to whole blocks.
    """
    rows, columns = weight.shape
    count = -(-rows // block)
    padded = np.zeros((columns, count * block), np.float32)
    padded[:, :rows] = weight.T
    blocks = round_blocks(padded.reshape(-1, block), bits, half_scales=half_scales, search=search)
    levels = blocks.levels.reshape(columns, count, block)
    zeros = blocks.zeros.reshape(columns, count)
    scales = blocks.scales.reshape(columns, count)
    if bits == 4:
        levels, zeros = pairs(levels), pairs(zeros)
    return {
        "Q": levels,
        "scales": scales.astype(np.float16) if half_scales else scales,
        "zeros": zeros,
    }


def unpack(packed: dict[str, NDArray[Any]], rows: int, bits: int) -> Floats:
    """The inverse of `pack`: float32 [rows, N], as the kernel sees the weights."""
    levels, zeros = packed["Q"], packed["zeros"]
    columns, count = packed["scales"].shape
    if bits == 4:
        levels, zeros = halves(levels), halves(zeros)[:, :count]
    blocks = Blocks(
        levels.reshape(columns * count, -1),
        packed["scales"].astype(np.float32).reshape(-1),
        zeros.reshape(-1),
    )
    return np.ascontiguousarray(blocks.weights().reshape(columns, -1)[:, :rows].T)


def _replace(
    graph: Any, node: Any, attributes: dict[str, int], compact: bool, search: bool
) -> None:
    array = np.asarray(node.inputs[1].const_value.numpy(), np.float32)
    packed = pack(array, attributes["bits"], attributes["block_size"], compact, search)
    insert(graph, node, packed, attributes)


def insert(
    graph: Any, node: Any, packed: dict[str, NDArray[Any]], attributes: dict[str, int]
) -> None:
    """Put MatMulNBits with the arrays `packed`, see `pack`, in the place of the MatMul `node`.

    Without "zeros" every zero is the middle level. Scales in float16 get a cast to float32.
    """
    import onnx_ir as ir

    source, weight = node.inputs
    rows, columns = weight.const_value.shape
    inputs = [source]
    new = []
    for part, values in packed.items():
        value = ir.Value(name=f"{weight.name}.{part}", const_value=ir.tensor(values))
        graph.register_initializer(value)
        if values.dtype == np.float16:
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}.Cast")
            cast.outputs[0].name = f"{value.name}.float32"
            new.append(cast)
            value = cast.outputs[0]
        inputs.append(value)
    matmul = ir.node(
        "MatMulNBits",
        inputs,
        {"K": int(rows), "N": int(columns), **attributes},
        domain="com.microsoft",
        name=node.name,
    )
    new.append(matmul)
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, matmul.outputs)
    if not weight.uses():
        del graph.initializers[weight.name]


def pairs(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two levels of 4 bits a byte along the last axis, the first in the low half."""
    even = levels[..., ::2]
    odd = np.zeros_like(even)
    odd[..., : levels.shape[-1] // 2] = levels[..., 1::2]
    packed: NDArray[np.uint8] = np.bitwise_or(even, np.left_shift(odd, 4, dtype=np.uint8))
    return packed


def halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `pairs`, for an even number of levels."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
