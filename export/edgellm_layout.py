"""The 4-bit weights of TensorRT Edge-LLM's Int4GroupwiseGemmPluginV2, and how to read them back.

Inputs of a node: activations, weights int8 [rows, 512], scales float16 [K / g, N]. A row is 128
words of 32 bits, one for each thread of a tile of 128 outputs by 64 inputs; a word holds eight
levels, of two outputs 32 apart and four inputs each. Rows go through the tiles' outputs, their
inputs, then the four steps of 16 inputs and the two halves of 64 outputs of a tile. Weight =
(level − 8) × scale; what fills up a tile is 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError

TILE_N, TILE_K = 128, 64
STEP, HALF = 16, 64
THREADS = 128
# Of a word's eight levels, from the lowest bits: whether it is the output 32 above, and its input.
UPPER = np.array([0, 0, 1, 1, 0, 0, 1, 1])
INPUT = np.array([0, 8, 0, 8, 1, 9, 1, 9])
PADDING = 8


def places(outputs: int, inputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Output and input of every level, both int64 [rows, 128, 8]; beyond N where it is padding."""
    tiles_n, tiles_k = -(-outputs // TILE_N), -(-inputs // TILE_K)
    shape = (tiles_n, tiles_k, TILE_K // STEP, TILE_N // HALF, THREADS, 8)
    tile_n, tile_k, step, half, thread, level = np.ogrid[tuple(slice(n) for n in shape)]
    n = tile_n * TILE_N + half * HALF + thread // 4 + 32 * UPPER[level]
    k = tile_k * TILE_K + step * STEP + 2 * (thread % 4) + INPUT[level]
    rows = (-1, THREADS, 8)
    return (
        np.broadcast_to(n, shape).reshape(rows).astype(np.int64),
        np.broadcast_to(k, shape).reshape(rows).astype(np.int64),
    )


def unpack(weights: NDArray[np.int8], outputs: int, inputs: int) -> NDArray[np.uint8]:
    """Levels uint8 [inputs, outputs] of int8 [rows, 512].

    Raises ArtifactError for another shape, or padding that would not count as zero.
    """
    n, k = places(outputs, inputs)
    if weights.shape != (len(n), 4 * THREADS):
        raise ArtifactError(f"weights of shape {weights.shape} for {outputs} × {inputs}")
    words = np.ascontiguousarray(weights).view("<u4")
    levels = (words[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).astype(np.uint8)
    inside = (n < outputs) & (k < inputs)
    if (levels[~inside] != PADDING).any():
        raise ArtifactError("weights beyond the matrix are not zero")
    found = np.zeros((inputs, outputs), np.uint8)
    found[k[inside], n[inside]] = levels[inside]
    return found


def pack(levels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `unpack`."""
    inputs, outputs = levels.shape
    n, k = places(outputs, inputs)
    inside = (n < outputs) & (k < inputs)
    words = np.full(n.shape, PADDING, np.uint32)
    words[inside] = levels[k[inside], n[inside]]
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    packed = np.bitwise_or.reduce(words << shifts, axis=-1).astype("<u4")
    return packed.view(np.int8).reshape(len(packed), -1)
