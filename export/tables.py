"""Token tables as `proguard_edge.engine.table` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.rounding import round_blocks

TableType = Literal["float32", "float16", "int8"]
CHUNK_ROWS = 4096


class Rows(Protocol):
    """An array, or anything that gives rows of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]: ...


def write_table(
    array: Rows, out: Path, name: str, dtype: TableType = "float32", block: int = 32
) -> tuple[Path, ...]:
    """Write [V, H] as `NAME.npy`, for int8 also `NAME.scales.npy`; the files written.

    int8: value = int8 × float16 scale of its block, symmetric, -127 to 127. `array` is read a few
    thousand rows at a time. Raises ArtifactError: rows that blocks do not divide, weights that
    are not finite or do not fit float16.
    """
    rows, width = array.shape
    if dtype not in get_args(TableType):
        raise ArtifactError(f"no table type {dtype!r}; known are {', '.join(get_args(TableType))}")
    if dtype == "int8":
        return _write_int8(array, out, name, block)
    path = out / f"{name}.npy"
    target = open_memmap(path, "w+", np.dtype(dtype), (rows, width))
    for start in range(0, rows, CHUNK_ROWS):
        part = array[start : start + CHUNK_ROWS]
        largest = np.finfo(dtype).max
        if not (np.abs(part) <= largest).all():
            raise ArtifactError(f"{name}: weights that are not finite or do not fit {dtype}")
        target[start : start + CHUNK_ROWS] = part
    target.flush()
    return (path,)


def _write_int8(array: Rows, out: Path, name: str, block: int) -> tuple[Path, ...]:
    rows, width = array.shape
    if width % block:
        raise ArtifactError(f"{name}: rows of {width} weights are not made of blocks of {block}")
    paths = out / f"{name}.npy", out / f"{name}.scales.npy"
    values = open_memmap(paths[0], "w+", np.dtype(np.int8), (rows, width))
    scales = open_memmap(paths[1], "w+", np.dtype(np.float16), (rows, width // block))
    for start in range(0, rows, CHUNK_ROWS):
        part = np.ascontiguousarray(array[start : start + CHUNK_ROWS], np.float32)
        blocks = round_blocks(part.reshape(-1, block), 8, symmetric=True, half_scales=True)
        signed = blocks.levels.astype(np.int16) - 128
        values[start : start + CHUNK_ROWS] = signed.reshape(part.shape)
        scales[start : start + CHUNK_ROWS] = blocks.scales.reshape(len(part), -1)
    values.flush()
    scales.flush()
    return paths
