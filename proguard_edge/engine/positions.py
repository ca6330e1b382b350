"""Three-axis rotary positions (M-RoPE) of Qwen2.5-VL for text with still images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proguard_edge.errors import EngineError


def rope_positions(
    token_ids: npt.ArrayLike,
    image_token_id: int,
    grids: Sequence[tuple[int, int, int]],
    merge_size: int,
    start: int = 0,
) -> tuple[npt.NDArray[np.int64], int]:
    """Positions int64 [3, S] (time, height, width) of `token_ids` [S], and the position after them.

    grids: (t, h, w) in patches of each image, in order; an image has h*w / merge_size**2 tokens
    next to each other. A text token counts one on all three axes. Image tokens share one time and
    spread over height and width from there; what follows starts after the longer side, so the next
    position is not `start + S`: pass it as `start` of the next call.

    Raises EngineError when image tokens and grids do not match.
    """
    ids = np.asarray(token_ids)
    if ids.ndim != 1:
        raise EngineError(f"token ids must have one dimension, not {ids.ndim}")
    is_image = ids == image_token_id
    sizes = [_merged(grid, merge_size) for grid in grids]
    expected = sum(h * w for h, w in sizes)
    if int(is_image.sum()) != expected:
        raise EngineError(
            f"{int(is_image.sum())} image tokens in the prompt, {expected} in the image grids"
        )
    positions = np.empty((3, ids.size), dtype=np.int64)
    at, position = 0, start
    for h, w in sizes:
        text = int(is_image[at:].argmax())
        positions[:, at : at + text] = np.arange(position, position + text)
        at, position = at + text, position + text
        if not is_image[at : at + h * w].all():
            raise EngineError("the tokens of one image are not next to each other")
        span = positions[:, at : at + h * w]
        span[0] = position
        span[1] = np.repeat(np.arange(position, position + h), w)
        span[2] = np.tile(np.arange(position, position + w), h)
        at, position = at + h * w, position + max(h, w)
    rest = ids.size - at
    positions[:, at:] = np.arange(position, position + rest)
    return positions, position + rest


def _merged(grid: tuple[int, int, int], merge_size: int) -> tuple[int, int]:
    """(rows, columns) of tokens for a still image of `grid` patches."""
    t, h, w = (int(side) for side in grid)
    if t != 1 or h < 1 or w < 1 or h % merge_size or w % merge_size:
        raise EngineError(
            f"image grid {(t, h, w)} is not one still image in blocks of {merge_size}"
        )
    return h // merge_size, w // merge_size
