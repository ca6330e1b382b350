"""Token tables: rows of an embedding matrix, and logits against a few rows or all of them.

Stored as `NAME.npy` [V, H] in float32 or float16, or as int8 with `NAME.scales.npy` float16
[V, H / block]: value = int8 × scale of its block. Memory-mapped: rows nobody asks for stay on disk.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact
from proguard_edge.errors import ArtifactError

CHUNK_ROWS = 8192


class TokenTable:
    """A [V, H] matrix on disk. Raises ArtifactError when the files are not such a table."""

    def __init__(self, artifact: Artifact, name: str, vocabulary: int, hidden: int) -> None:
        self._values = _load(artifact, f"{name}.npy")
        scales = f"{name}.scales.npy"
        self._scales = _load(artifact, scales) if scales in artifact.files else None
        kinds = (np.int8,) if self._scales is not None else (np.float32, np.float16)
        fits = self._values.dtype in kinds and self.shape == (vocabulary, hidden)
        if self._scales is not None:
            rows, blocks = self._scales.shape
            fits = fits and self._scales.dtype in (np.float16, np.float32)
            fits = fits and rows == vocabulary and blocks > 0 and hidden % blocks == 0
        if not fits:
            raise ArtifactError(
                f"{artifact.folder}: {name}.npy and its scales are no table of {vocabulary} rows "
                f"of {hidden} numbers"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(V, H)."""
        rows, width = self._values.shape
        return int(rows), int(width)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [N, H] for `ids` [N]. Raises ArtifactError for a token that has no row."""
        if len(ids) and ids.max() >= len(self._values):
            raise ArtifactError(
                f"the tokenizer knows token {ids.max()}, the model has {len(self._values)}"
            )
        return self._dequantize(
            self._values[ids], None if self._scales is None else self._scales[ids]
        )

    def logits(
        self, hidden: NDArray[np.float32], ids: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Products of `hidden` [H] with the rows `ids` [N] → [N], or with all rows → [V]."""
        if ids is not None:
            return self.rows(ids) @ hidden
        return self._whole @ hidden

    @cached_property
    def _whole(self) -> NDArray[np.float32]:
        """The table in float32, made on the first whole-vocabulary step and then kept."""
        out = np.empty(self.shape, np.float32)
        for start in range(0, len(out), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            scales = None if self._scales is None else self._scales[part]
            out[part] = self._dequantize(self._values[part], scales)
        return out

    def _dequantize(self, values: NDArray[Any], scales: NDArray[Any] | None) -> NDArray[np.float32]:
        out = values.astype(np.float32)
        if scales is not None:
            blocks = out.reshape(len(out), scales.shape[1], -1)
            blocks *= scales[:, :, None].astype(np.float32)
        return out


def _load(artifact: Artifact, name: str) -> NDArray[Any]:
    path = artifact.path(name)
    try:
        # Not np.load, which also opens archives, and says of some broken files only EOFError.
        array: NDArray[Any] = open_memmap(path, "r")
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not a table of numbers: {error}") from None
    if array.ndim != 2:
        raise ArtifactError(f"{path}: {array.ndim} dimensions, not 2")
    return array
