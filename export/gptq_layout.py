"""A GPTQ checkpoint folder in the layout of AutoGPTQ ("v1"), read and packed with numpy alone.

For a linear layer X with `in` inputs and `out` outputs, groups of g inputs share a scale:
X.qweight int32 [in/8, out], eight levels of 4 bits along the inputs, the first in the lowest bits;
X.qzeros int32 [in/g, out/8], packed along the outputs, stored minus one; X.scales float16
[in/g, out]; X.g_idx int32 [in], the group of each input. Weight = (level − zero) × scale.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact.format import file_digest
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import read_json
from proguard_edge.export.tensor_file import Spec, TensorFolder

PARTS = ("qweight", "qzeros", "scales", "g_idx")
RECORD = "quantization.json"
MIDDLE = 8
NIBBLES = np.arange(0, 32, 4, dtype=np.uint32)
# What follows the prefix, which differs from one release of transformers to the next.
DECODER = re.compile(r"(?:^|\.)(layers\.\d+\.(?:self_attn|mlp)\.\w+_proj)$")


@dataclass(frozen=True, eq=False)
class GptqLinear:
    """One rounded matrix: weight = (levels − zeros of its group) × scales of its group.

    levels: uint8 [in, out], 0 to 15. zeros: uint8 [in/g, out], 0 to 15. scales: float16 [in/g,
    out]. group_size: g.
    """

    levels: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    scales: NDArray[np.float16]
    group_size: int

    @property
    def symmetric(self) -> bool:
        """Whether every zero is the middle level, 8."""
        return bool((self.zeros == MIDDLE).all())

    def dequantize(self) -> NDArray[np.float32]:
        """float32 [in, out]."""
        groups, out = self.scales.shape
        levels = self.levels.reshape(groups, self.group_size, out).astype(np.float32)
        levels -= self.zeros[:, None]
        levels *= self.scales.astype(np.float32)[:, None]
        return levels.reshape(-1, out)


def specs(rows: int, columns: int, group_size: int) -> dict[str, Spec]:
    """Types and shapes of the four tensors of a layer with `rows` inputs, `columns` outputs."""
    groups = rows // group_size
    return {
        "qweight": Spec("I32", (rows // 8, columns)),
        "qzeros": Spec("I32", (groups, columns // 8)),
        "scales": Spec("F16", (groups, columns)),
        "g_idx": Spec("I32", (rows,)),
    }


def pack_linear(linear: GptqLinear) -> dict[str, NDArray[Any]]:
    """The four tensors of a layer by the last part of their names. The inverse of `unpack_linear`.

    Raises ArtifactError where inputs or outputs cannot be packed by eights.
    """
    rows, columns = linear.levels.shape
    if rows % 8 or columns % 8:
        raise ArtifactError(f"a matrix [{rows}, {columns}] does not pack eight levels a word")
    zeros = (linear.zeros - np.uint8(1)) & np.uint8(15)
    return {
        "qweight": _words(linear.levels.reshape(-1, 8, columns), axis=1),
        "qzeros": _words(zeros.reshape(len(zeros), -1, 8), axis=2),
        "scales": linear.scales,
        "g_idx": np.arange(rows, dtype=np.int32) // np.int32(linear.group_size),
    }


def unpack_linear(parts: dict[str, NDArray[Any]], group_size: int) -> GptqLinear:
    """The layer behind the four tensors. Raises ArtifactError when they do not fit together, or
    when inputs were reordered (`desc_act`)."""
    rows, columns = 8 * parts["qweight"].shape[0], parts["qweight"].shape[-1]
    if group_size < 1 or rows % group_size or columns % 8:
        raise ArtifactError(f"a matrix [{rows}, {columns}] in groups of {group_size}")
    for part, spec in specs(rows, columns, group_size).items():
        if Spec.of(parts[part]) != spec:
            found = f"{parts[part].dtype} {list(parts[part].shape)}"
            raise ArtifactError(f"{part} is {found}, not {spec.dtype} {list(spec.shape)}")
    if not (parts["g_idx"] == np.arange(rows) // group_size).all():
        raise ArtifactError("g_idx reorders the inputs (desc_act): quantize with desc_act False")
    if not np.isfinite(parts["scales"]).all():
        raise ArtifactError("scales that are not finite numbers")
    zeros = _nibbles(parts["qzeros"], axis=2).reshape(-1, columns)
    return GptqLinear(
        _nibbles(parts["qweight"], axis=1).reshape(rows, columns),
        (zeros + np.uint8(1)) & np.uint8(15),
        np.ascontiguousarray(parts["scales"]),
        group_size,
    )


class GptqCheckpoint:
    """The folder of a model that GPTQ rounded to 4 bits; tensors are read when asked for.

    Raises ArtifactError: no GPTQ folder, not 4 bits, activation order, or another layout than v1.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self.tensors = TensorFolder(folder)
        self.group_size = self._check(self._settings())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the rounded layers, such as `model.layers.0.mlp.up_proj`, in file order."""
        end = ".qweight"
        return tuple(n.removesuffix(end) for n in self.tensors.names() if n.endswith(end))

    @cached_property
    def decoder(self) -> dict[str, str]:
        """From `layers.N.self_attn.q_proj` and so on to the name in this folder.

        Raises ArtifactError for a rounded layer that is none of the decoder's projections.
        """
        found = {}
        for name in self.names:
            match = DECODER.search(name)
            if match is None or "visual" in name:
                raise ArtifactError(
                    f"{self.folder}: {name} is rounded; only the decoder's projections may be"
                )
            found[match[1]] = name
        return found

    def linear(self, name: str) -> GptqLinear:
        """One layer. Raises ArtifactError: unknown, or see `unpack_linear`."""
        parts = {part: self.tensors.array(f"{name}.{part}") for part in PARTS}
        try:
            return unpack_linear(parts, self.group_size)
        except ArtifactError as error:
            raise ArtifactError(f"{self.folder}: {name}: {error}") from None

    def __iter__(self) -> Iterator[tuple[str, GptqLinear]]:
        """Name and layer, one after the other."""
        return ((name, self.linear(name)) for name in self.names)

    def others(self) -> list[str]:
        """Names of the tensors that belong to no rounded layer; a layer's bias is among them."""
        packed = {f"{name}.{part}" for name in self.names for part in PARTS}
        return [name for name in self.tensors.names() if name not in packed]

    def record(self) -> dict[str, Any]:
        """For a manifest: what was done, the digest of the files, and `quantization.json`, which
        whoever rounded the folder left there."""
        state = hashlib.sha256()
        for name, file in sorted(self.tensors.files.items()):
            state.update(f"{name} {file_digest(file.path)}\n".encode())
        beside = self.folder / RECORD
        own = read_json(beside) if beside.is_file() else {}
        found = {"bits": 4, "group_size": self.group_size, "sha256": state.hexdigest()}
        return {"method": "gptq", **own, **found}

    def _settings(self) -> dict[str, Any]:
        found = self.config.get("quantization_config")
        if isinstance(found, dict):
            return found
        beside = self.folder / "quantize_config.json"
        if not beside.is_file():
            raise ArtifactError(f"{self.folder}: no quantization_config: not a GPTQ checkpoint")
        settings: dict[str, Any] = read_json(beside)
        return settings

    def _check(self, settings: dict[str, Any]) -> int:
        group = settings.get("group_size")
        layout = settings.get("checkpoint_format") or "gptq"
        problem = None
        if settings.get("quant_method", "gptq") != "gptq" or layout != "gptq":
            problem = f"its layout is {settings.get('quant_method')} {layout}, only gptq is read"
        elif settings.get("bits") != 4:
            problem = f"{settings.get('bits')} bits, only 4 can be taken over"
        elif settings.get("desc_act"):
            problem = "desc_act reorders the inputs: quantize with desc_act False"
        elif not isinstance(group, int) or group < 8 or group % 8:
            problem = f"a group size of {group!r}; a multiple of 8 is needed"
        elif settings.get("dynamic"):
            problem = "layers with settings of their own (dynamic) cannot be taken over"
        elif not self.names:
            problem = "it holds no rounded layer"
        if problem:
            raise ArtifactError(f"{self.folder}: {problem}")
        return int(group)  # type: ignore[arg-type]


def read_linear(folder: Path, name: str) -> GptqLinear:
    """One layer of a GPTQ folder. Raises ArtifactError."""
    return GptqCheckpoint(folder).linear(name)


def _words(levels: NDArray[np.uint8], axis: int) -> NDArray[np.int32]:
    """Eight levels along `axis` to one word, the first in the lowest bits."""
    shape = [1] * levels.ndim
    shape[axis] = 8
    words = levels.astype(np.uint32) << NIBBLES.reshape(shape)
    packed: NDArray[np.int32] = np.bitwise_or.reduce(words, axis=axis).view(np.int32)
    return packed


def _nibbles(words: NDArray[np.int32], axis: int) -> NDArray[np.uint8]:
    """The inverse of `_words`: a new axis of eight levels."""
    shape = [1] * (words.ndim + 1)
    shape[axis] = 8
    wide = np.expand_dims(np.ascontiguousarray(words).view(np.uint32), axis)
    found: NDArray[np.uint8] = ((wide >> NIBBLES.reshape(shape)) & np.uint32(15)).astype(np.uint8)
    return found
