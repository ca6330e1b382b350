"""Tensors in safetensors files as raw bytes, one at a time, whatever their type.

numpy knows no bfloat16, and a shard of several gigabytes need not stand in memory to have a few of
its tensors replaced: a file is mapped for reading, and written tensor by tensor behind a header
that only needs names, types and shapes. https://github.com/huggingface/safetensors has the format.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
BYTES |= {"U8": 1, "BOOL": 1}
TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "U8": "|u1", "I8": "|i1"}
HEADER_LIMIT = 100 << 20


@dataclass(frozen=True)
class Spec:
    """A tensor to come: `dtype` as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return BYTES[self.dtype] * math.prod(self.shape)

    @classmethod
    def of(cls, array: NDArray[Any]) -> Spec:
        """Of an array in a type of TYPES."""
        name = next(name for name, kind in TYPES.items() if np.dtype(kind) == array.dtype)
        return cls(name, array.shape)


class TensorFile:
    """A safetensors file, mapped. Raises ArtifactError when it is missing, cut or malformed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._start, raw = self._header()
            self.specs, self._places = self._read(raw)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: not a safetensors file: {error}") from None

    def raw(self, name: str) -> memoryview:
        """The bytes of a tensor, not copied; in the file's order, which is C order."""
        begin, end = self._places[name]
        return memoryview(self._bytes)[self._start + begin : self._start + end]

    def array(self, name: str) -> NDArray[Any]:
        """A read-only view of a tensor. Raises ArtifactError for a type that numpy lacks."""
        spec = self.specs[name]
        if spec.dtype not in TYPES:
            raise ArtifactError(f"{self.path}: {name} is of type {spec.dtype}")
        return np.frombuffer(self.raw(name), TYPES[spec.dtype]).reshape(spec.shape)

    def _header(self) -> tuple[int, dict[str, Any]]:
        length = int.from_bytes(self._bytes[:8], "little")
        if not 2 <= length <= min(HEADER_LIMIT, len(self._bytes) - 8):
            raise ValueError("the header's length is wrong")
        raw = json.loads(self._bytes[8 : 8 + length])
        raw.pop("__metadata__", None)
        return 8 + length, raw

    def _read(self, raw: dict[str, Any]) -> tuple[dict[str, Spec], dict[str, tuple[int, int]]]:
        specs, places = {}, {}
        available = len(self._bytes) - self._start
        for name, entry in raw.items():
            spec = Spec(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            begin, end = map(int, entry["data_offsets"])
            if end - begin != spec.size or not 0 <= begin <= end <= available:
                raise ValueError(f"{name} does not lie where the header says")
            specs[name], places[name] = spec, (begin, end)
        return specs, places


class TensorFolder:
    """All safetensors files of a model folder. Raises ArtifactError: none, or one that is broken.

    Files are those of `model.safetensors.index.json`, without it every file of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {path.name: TensorFile(path) for path in _shards(folder)}
        self._home = {name: file for file in self.files.values() for name in file.specs}

    def __contains__(self, name: str) -> bool:
        return name in self._home

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the files."""
        return list(self._home)

    def spec(self, name: str) -> Spec:
        """Type and shape. Raises ArtifactError for an unknown name."""
        return self._file(name).specs[name]

    def raw(self, name: str) -> memoryview:
        """See `TensorFile.raw`. Raises ArtifactError for an unknown name."""
        return self._file(name).raw(name)

    def array(self, name: str) -> NDArray[Any]:
        """See `TensorFile.array`. Raises ArtifactError for an unknown name."""
        return self._file(name).array(name)

    def _file(self, name: str) -> TensorFile:
        if name not in self._home:
            raise ArtifactError(f"{self.folder}: no tensor named {name}")
        return self._home[name]


Content = Callable[[str], "memoryview | NDArray[Any]"]


def write_tensors(path: Path, specs: Mapping[str, Spec], content: Content) -> None:
    """Write a safetensors file; `content(name)` is asked for each tensor in turn, in the order of
    the names. Equal contents, equal bytes.

    Raises ArtifactError when a content is not as long as its spec says.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(specs):
        begin, end = end, end + specs[name].size
        shape = list(specs[name].shape)
        header[name] = {"dtype": specs[name].dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    # Aligned, so that a reader may map the tensors.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(specs):
            data = content(name)
            if isinstance(data, np.ndarray):
                data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
            if data.nbytes != specs[name].size:
                raise ArtifactError(f"{name}: {data.nbytes} bytes, not {specs[name].size}")
            file.write(data)


def write_index(folder: Path, specs: Mapping[str, Mapping[str, Spec]]) -> None:
    """Write `model.safetensors.index.json` where there is more than one file; specs: by file."""
    if len(specs) < 2:
        return
    places = {name: file for file, tensors in specs.items() for name in tensors}
    size = sum(spec.size for tensors in specs.values() for spec in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    text = json.dumps(index, indent=1) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(folder: Path) -> Sequence[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise ArtifactError(f"{folder}: no safetensors files")
        return found
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{index}: cannot be read: {error}") from None
    if any(Path(str(name)).name != name for name in names):
        raise ArtifactError(f"{index}: names a file outside its folder")
    return [folder / name for name in names]
