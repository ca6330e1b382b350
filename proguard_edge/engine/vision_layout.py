"""What the Qwen2.5-VL vision tower needs besides pixels, computed outside the graph.

Most layers attend within windows of the picture only. Patches are reordered so that a window's
patches are neighbours, rotary tables follow that order, and two arrays of segment ids say who may
attend to whom. None of it depends on weights, and loops over grids do not export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proguard_edge.errors import EngineError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class VisionLayout:
    """Tables for N patches, all but `inv` in window order.

    cos, sin: float32 [N, head_dim], rotary tables (halves repeated, for the rotate-half form).
    perm: int64 [N], `pixels[perm]` brings patches to window order.
    inv: int64 [N / merge_size**2], `merged[inv]` brings merged features back to reading order.
    window_ids, frame_ids: int64 [N], from 0 and not decreasing; patches with the same id attend to
    each other in window layers and in full layers.
    """

    cos: Floats
    sin: Floats
    perm: Ints
    inv: Ints
    window_ids: Ints
    frame_ids: Ints


def vision_layout(
    grids: Sequence[tuple[int, int, int]],
    *,
    merge_size: int = 2,
    window_size: int = 112,
    patch_size: int = 14,
    head_dim: int = 80,
    theta: float = 10_000.0,
) -> VisionLayout:
    """Layout of pictures whose patches are concatenated in the order of `grids`.

    grids: (t, h, w) in patches, h and w multiples of merge_size. window_size, patch_size: pixels.
    Raises EngineError for a grid or settings that do not divide.
    """
    grids = [(int(t), int(h), int(w)) for t, h, w in grids]
    window = window_size // merge_size // patch_size
    if window < 1 or head_dim % 4 or not grids:
        raise EngineError("vision layout: no grids, or window or head size does not divide")
    for t, h, w in grids:
        if min(t, h, w) < 1 or h % merge_size or w % merge_size:
            raise EngineError(f"image grid {(t, h, w)} is not in blocks of {merge_size}")
    order, blocks_window = _window_order(grids, merge_size, window)
    unit = merge_size**2
    perm = (order[:, None] * unit + np.arange(unit)).reshape(-1)
    angles = _angles(grids, merge_size, head_dim, theta)[perm]
    return VisionLayout(
        cos=np.cos(angles),
        sin=np.sin(angles),
        perm=perm,
        inv=np.argsort(order),
        window_ids=np.repeat(blocks_window, unit),
        frame_ids=_frame_ids(grids),
    )


def _window_order(
    grids: Sequence[tuple[int, int, int]], merge_size: int, window: int
) -> tuple[Ints, Ints]:
    """Merge blocks in window order, int64 [N / merge_size**2], and the window id of each.

    A stable sort by window keeps the reading order inside it; windows at the right and the lower
    edge are smaller than the others.
    """
    keys, first = [], 0
    for t, h, w in grids:
        rows, columns = h // merge_size, w // merge_size
        down, across = -(-rows // window), -(-columns // window)
        frame = np.arange(t)[:, None, None] * (down * across)
        row = np.arange(rows)[None, :, None] // window * across
        column = np.arange(columns)[None, None, :] // window
        keys.append((first + frame + row + column).reshape(-1))
        first += t * down * across
    key = np.concatenate(keys).astype(np.int64)
    order = np.argsort(key, kind="stable")
    return order, key[order]


def _frame_ids(grids: Sequence[tuple[int, int, int]]) -> Ints:
    lengths = [h * w for t, h, w in grids for _ in range(t)]
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)


def _angles(
    grids: Sequence[tuple[int, int, int]], merge_size: int, head_dim: int, theta: float
) -> Floats:
    """float32 [N, head_dim], in merge-block order: row angles, column angles, both again."""
    half = head_dim // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    rates = np.float32(1) / np.float32(theta) ** exponents
    coordinates = []
    for t, h, w in grids:
        places = np.indices((h, w), dtype=np.float32).reshape(
            2, h // merge_size, merge_size, w // merge_size, merge_size
        )
        places = places.transpose(1, 3, 2, 4, 0).reshape(h * w, 2)
        coordinates.append(np.tile(places, (t, 1)))
    angles = (np.concatenate(coordinates)[:, :, None] * rates).reshape(-1, half)
    return np.concatenate([angles, angles], axis=1)
