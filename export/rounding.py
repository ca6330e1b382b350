"""Rounding of weights in blocks that share a scale, with the scale that loses least.

The scale that spans a block's extremes is not the best one: a somewhat smaller scale clips one or
two weights and rounds all others finer. For each block a few scales are tried, each is refitted by
least squares, and the one with the smallest squared error stays. On normally distributed weights
(4 bits, blocks of 32) the relative RMS error is 0.077, against 0.081 for plain rounding and 0.082
for k-quant.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SHRINK = np.linspace(0.7, 1.05, 8, dtype=np.float32)
SPAN = np.ones(1, np.float32)
CHUNK_WEIGHTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Blocks:
    """Weight = (levels − zeros) × scales.

    levels: uint8 [N, block]; zeros: uint8 [N]; scales: float32 [N], exact in float16 when that was
    asked for.
    """

    levels: Bytes
    scales: Floats
    zeros: Bytes

    def weights(self) -> Floats:
        """float32 [N, block]."""
        signed = self.levels.astype(np.float32) - self.zeros[:, None]
        return signed * self.scales[:, None]


def to_half(name: str, array: Floats) -> NDArray[np.float16]:
    """The nearest float16 numbers. Raises ArtifactError, with the name, where they have none."""
    if not (np.abs(array) <= np.finfo(np.float16).max).all():
        raise ArtifactError(f"{name}: weights that are not finite or do not fit float16")
    return array.astype(np.float16)


def round_blocks(
    weights: Floats,
    bits: int,
    *,
    symmetric: bool = False,
    half_scales: bool = False,
    search: bool = True,
) -> Blocks:
    """Round `weights` float32 [N, block] to levels of `bits` (4 or 8), each row a block.

    symmetric: the zero level is the middle one and the lowest level is not used, so that levels
    minus zero fit a signed integer that is as wide below zero as above. half_scales: scales are
    chosen among float16 numbers. search: try several scales; without, the one that spans the block,
    which is the rounding of quantization-aware training.
    Raises ArtifactError for weights that are not finite.
    """
    if not np.isfinite(weights).all():
        raise ArtifactError("the checkpoint has weights that are not finite numbers")
    step = max(1, CHUNK_WEIGHTS // weights.shape[1])
    chunks = (weights[start : start + step] for start in range(0, len(weights), step))
    # numpy gives up the interpreter's lock, so threads do help; the result does not depend on them.
    with ThreadPoolExecutor() as pool:
        best = _best if search else _spanning
        parts = list(pool.map(lambda x: best(x, bits, symmetric, half_scales), chunks))
    return Blocks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _best(weights: Floats, bits: int, symmetric: bool, half: bool) -> tuple[Bytes, Floats, Bytes]:
    """Levels, scales and zeros of the candidate with the smallest error, block by block."""
    levels = np.zeros(weights.shape, np.float32)
    scales = np.zeros((len(weights), 1), np.float32)
    zeros = np.zeros((len(weights), 1), np.float32)
    least = np.full((len(weights), 1), np.inf, np.float32)
    lowest = 1 if symmetric else 0
    for scale, zero in _candidates(weights, bits, symmetric, SHRINK):
        signed = _round(weights, scale, zero, lowest, bits)
        scale = _refit(weights, signed, scale, half)
        signed = _round(weights, scale, zero, lowest, bits)
        error = np.square(signed * scale - weights).sum(1, keepdims=True)
        better = error < least
        np.copyto(least, error, where=better)
        np.copyto(scales, scale, where=better)
        np.copyto(zeros, zero, where=better)
        np.copyto(levels, signed + zero, where=better)
    return levels.astype(np.uint8), scales[:, 0], zeros[:, 0].astype(np.uint8)


def _spanning(
    weights: Floats, bits: int, symmetric: bool, half: bool
) -> tuple[Bytes, Floats, Bytes]:
    """Levels, scales and zeros of the scale that spans each block."""
    scale, zero = next(_candidates(weights, bits, symmetric, SPAN))
    if half:
        scale = _half(scale)
    signed = _round(weights, scale, zero, 1 if symmetric else 0, bits)
    return (signed + zero).astype(np.uint8), scale[:, 0], zero[:, 0].astype(np.uint8)


def _candidates(
    weights: Floats, bits: int, symmetric: bool, factors: Floats
) -> Iterator[tuple[Floats, Floats]]:
    """Scales and zeros, both float32 [N, 1], that span somewhat less or more than the block."""
    top = 2**bits - 1
    low = np.minimum(weights.min(1, keepdims=True), 0)
    high = np.maximum(weights.max(1, keepdims=True), 0)
    if symmetric:
        high = np.maximum(high, -low)
        low, top = -high, top - 1
    # A block of zeros gets any scale whose inverse is finite.
    span = np.maximum(high - low, np.float32(1e-30))
    for shrink in factors:
        scale = span * (shrink / np.float32(top))
        # The zero level keeps the middle of the span in the middle of the levels.
        zero = np.clip(np.rint(top / 2 - (high + low) / (2 * scale)), 0, top)
        yield scale, np.full_like(scale, 2 ** (bits - 1)) if symmetric else zero


def _round(weights: Floats, scale: Floats, zero: Floats, lowest: int, bits: int) -> Floats:
    """Levels minus zero, as float32."""
    # A float16 scale may have become 0; then every level of the block stands for 0.
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    signed = np.rint(weights * inverse)
    clipped: Floats = np.clip(signed, lowest - zero, 2**bits - 1 - zero)
    return clipped


def _refit(weights: Floats, signed: Floats, scale: Floats, half: bool) -> Floats:
    """The scale under which these levels come closest to the weights."""
    power = np.square(signed).sum(1, keepdims=True)
    product = (signed * weights).sum(1, keepdims=True)
    fitted: Floats = np.divide(product, power, out=scale.copy(), where=power > 0)
    if half:
        fitted = _half(fitted)
    return fitted


def _half(scale: Floats) -> Floats:
    """The nearest float16 numbers, none of them infinite."""
    return np.minimum(scale, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
