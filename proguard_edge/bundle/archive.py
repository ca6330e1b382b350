"""Archive: the bytes of a bundle. A plain tar (POSIX ustar) that can be written in one way only.

First `manifest.json`, then `manifest.sig` where it is signed, then every file that the manifest
lists, in its order: names, sizes and digests there decide every byte of the archive, headers and
padding too. A reader rebuilds what it expects and compares; it never trusts a tar header. Large
bundles may lie in volumes, `NAME.001`, `NAME.002` …
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from proguard_edge.errors import ArtifactError

BLOCK = 512
RECORD = 10240
CHUNK = 1 << 20
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MAX_HEAD_BYTES = 64 << 20
_VOLUME = re.compile(r"(?P<name>.+)\.(?P<number>\d{3})")


@dataclass(frozen=True)
class Entry:
    """A file of the archive. size: bytes. sha256: hex."""

    path: str
    size: int
    sha256: str


def header(path: str, size: int) -> bytes:
    """The one header of a file, 512 bytes. Raises ArtifactError for a name that tar cannot hold."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except (ValueError, UnicodeError) as error:
        raise ArtifactError(f"{path}: {error}") from None


def padding(size: int, unit: int = BLOCK) -> bytes:
    """Zeros up to the next multiple of `unit`."""
    return b"\0" * (-size % unit)


def safe(path: str) -> bool:
    """Whether a listed path stays inside the folder that it is unpacked into."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith("/")
        and PurePosixPath(path).as_posix() == path
        and not {"..", "."} & set(parts)
        and "\\" not in path
        and path.isprintable()
    )


class Volumes(io.RawIOBase):
    """A file, or its volumes one after the other, read from the beginning to the end."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError when there is none, or a volume is missing in between."""
        self._paths = _volumes(path)
        self._number = 0
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer as far as the current volume goes."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while self._number < len(self._paths):
            if self._file is None:
                self._file = self._paths[self._number].open("rb", buffering=0)
            count = self._file.readinto(view)  # type: ignore[attr-defined]
            if count or not len(view):
                return int(count)
            self._file.close()
            self._file = None
            self._number += 1
        return 0

    def close(self) -> None:
        """Close the volume that is open."""
        if self._file is not None:
            self._file.close()
        super().close()


def opened(path: Path) -> io.BufferedReader:
    """The archive as one stream. Raises ArtifactError."""
    return io.BufferedReader(Volumes(path), CHUNK)


def size_of(path: Path) -> int:
    """Bytes of all volumes. Raises ArtifactError."""
    return sum(each.stat().st_size for each in _volumes(path))


def take(stream: IO[bytes], size: int, what: str) -> bytes:
    """Exactly `size` bytes. Raises ArtifactError that names `what`."""
    raw = stream.read(size)
    if len(raw) != size:
        raise ArtifactError(f"{what}: the bundle ends in the middle of it")
    return raw


def head(stream: IO[bytes], name: str) -> bytes:
    """The next file, which must be `name` and small. Raises ArtifactError."""
    raw = take(stream, BLOCK, name)
    try:
        size = tarfile.TarInfo.frombuf(raw, "utf-8", "strict").size
    except (tarfile.HeaderError, UnicodeError):
        raise ArtifactError(f"{name}: its header is damaged, or this is no bundle") from None
    if not 0 <= size <= MAX_HEAD_BYTES or raw != header(name, size):
        raise ArtifactError(f"{name}: its header is damaged, or this is no bundle")
    content = take(stream, size, name)
    if take(stream, -size % BLOCK, name).strip(b"\0"):
        raise ArtifactError(f"{name}: bytes behind its end")
    return content


def body(stream: IO[bytes], entry: Entry) -> Iterator[bytes]:
    """The chunks of the next file. Raises ArtifactError: not `entry`, to the last byte.

    Chunks come before the digest is known: whoever keeps them must drop them on an error.
    """
    if take(stream, BLOCK, entry.path) != header(entry.path, entry.size):
        raise ArtifactError(f"{entry.path}: its header was altered, or another file stands here")
    digest, left = hashlib.sha256(), entry.size
    while left:
        chunk = take(stream, min(CHUNK, left), entry.path)
        digest.update(chunk)
        left -= len(chunk)
        yield chunk
    if digest.hexdigest() != entry.sha256:
        raise ArtifactError(f"{entry.path}: was altered (its digest differs)")
    if take(stream, -entry.size % BLOCK, entry.path).strip(b"\0"):
        raise ArtifactError(f"{entry.path}: bytes behind its end")


def end(stream: IO[bytes], written: int) -> None:
    """That nothing but the end follows. written: bytes so far. Raises ArtifactError."""
    expected = 2 * BLOCK
    expected += -(written + expected) % RECORD
    rest = stream.read(expected + 1)
    if len(rest) != expected or rest.strip(b"\0"):
        raise ArtifactError("the end of the bundle: bytes are missing, or too many")


class Writer:
    """Writes an archive, in volumes of at most `max_part_bytes` where that is given."""

    def __init__(self, path: Path, max_part_bytes: int | None = None) -> None:
        self.paths: list[Path] = []
        self._path, self._max = path, max_part_bytes
        self._file: IO[bytes] | None = None
        self._room = 0
        self.written = 0

    def add(self, path: str, source: Path | bytes) -> None:
        """Append one file."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        self._write(header(path, size))
        if isinstance(source, bytes):
            self._write(source)
        else:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    self._write(chunk)
        self._write(padding(size))

    def close(self) -> None:
        """Write the end."""
        self._write(b"\0" * (2 * BLOCK))
        self._write(padding(self.written, RECORD))
        if self._file is not None:
            self._file.close()

    def _write(self, raw: bytes) -> None:
        while raw:
            if self._file is None or self._room == 0:
                self._next()
            assert self._file is not None
            part = raw if self._max is None else raw[: self._room]
            self._file.write(part)
            self._room -= len(part)
            self.written += len(part)
            raw = raw[len(part) :]

    def _next(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self._path
        if self._max is not None:
            path = path.with_name(f"{path.name}.{len(self.paths) + 1:03}")
        self.paths.append(path)
        self._file, self._room = path.open("wb"), self._max or -1


def _volumes(path: Path) -> list[Path]:
    if (match := _VOLUME.fullmatch(path.name)) and path.exists():
        path = path.with_name(match["name"])
    if path.is_file():
        return [path]
    found = sorted(p for p in path.parent.glob(f"{path.name}.*") if _VOLUME.fullmatch(p.name))
    numbers = [int(p.name[-3:]) for p in found]
    if not found:
        raise ArtifactError(f"{path}: no such bundle")
    if numbers != list(range(1, len(found) + 1)):
        missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
        raise ArtifactError(f"{path}.{missing[0]:03}: this volume is missing")
    return found
