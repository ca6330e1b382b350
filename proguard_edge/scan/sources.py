"""What is to be scanned: a JSONL or Parquet file of rows, or a folder of texts and pictures."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from proguard_edge.batch import read_rows
from proguard_edge.errors import InputError
from proguard_edge.scan.parquet import count_rows

Kind = Literal["jsonl", "parquet", "folder"]

TEXTS = frozenset({".txt", ".md"})
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One input as it was found.

    path: absolute. rows: of the file, or files of a folder that are looked at. digest: sha256 (hex)
    of the file's bytes, or of the folder's names, sizes and times. size (bytes), mtime_ns: of the
    file; 0 for a folder. not_looked_at: files of neither kind in a folder, by ending. files: names
    of those that are looked at, relative to the folder, sorted.
    """

    path: str
    kind: Kind
    rows: int
    digest: str
    size: int = 0
    mtime_ns: int = 0
    not_looked_at: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = field(default=(), compare=False, repr=False)


def look(path: Path, known: Source | None = None) -> Source:
    """The source at `path`; a file of the same size and time as `known` is not read again.

    Raises InputError: not there, of another kind, or not readable.
    """
    path = path.absolute()
    if path.is_dir():
        return _folder(path)
    name = path.name.removesuffix(".gz")
    kind: Kind = "parquet" if path.suffix == ".parquet" else "jsonl"
    if kind == "jsonl" and not name.endswith(".jsonl"):
        raise InputError(f"{path}: neither a folder nor .jsonl, .jsonl.gz or .parquet")
    try:
        status = path.stat()
        size, mtime_ns = status.st_size, status.st_mtime_ns
        if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
            return known
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: cannot be read: not a regular file")
        digest = _digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if known is not None and known.digest == digest:
        return replace(known, mtime_ns=mtime_ns)
    rows = count_rows(path) if kind == "parquet" else sum(1 for _ in read_rows(path))
    return Source(str(path), kind, rows, digest, size, mtime_ns)


def is_text(name: str) -> bool:
    """Whether a file of a folder is a text, by its ending."""
    return _ending(name) in TEXTS


@cache
def pictures() -> frozenset[str]:
    """Endings of the accepted image formats."""
    from PIL import Image

    from proguard_edge.image.load import ACCEPTED

    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in endings if kind in ACCEPTED)


def _folder(path: Path) -> Source:
    files: list[tuple[str, os.stat_result]] = []
    other: Counter[str] = Counter()
    for name, status in _walk(path):
        ending = _ending(name)
        if status is None:
            other["links and special files"] += 1
        elif ending in TEXTS or ending in pictures():
            files.append((name, status))
        else:
            other[ending or "no ending"] += 1
    files.sort()
    digest = hashlib.sha256()
    for name, status in files:
        digest.update(os.fsencode(name) + b"\0")
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return Source(
        str(path),
        "folder",
        len(files),
        digest.hexdigest(),
        not_looked_at=dict(sorted(other.items())),
        files=tuple(name for name, _ in files),
    )


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names relative to `root` and their state; None for what is no regular file.

    Links to folders are not followed: they may lead in circles.
    """

    def refuse(error: OSError) -> Any:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}")

    for here, folders, names in os.walk(root, onerror=refuse):
        folder = Path(here)
        links = [name for name in folders if (folder / name).is_symlink()]
        for path in map(folder.joinpath, names + links):
            try:
                status = path.stat()
            except OSError:
                status = None
            whole = status is not None and stat.S_ISREG(status.st_mode)
            yield path.relative_to(root).as_posix(), status if whole else None


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
