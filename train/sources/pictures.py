"""Pictures of a foreign data set: found beside it, or written out of its rows."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from proguard_edge.errors import InputError

# First bytes of the accepted formats (ISO 10918, PNG, GIF89a, RIFF, BMP, TIFF specifications).
_SIGNATURES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\x00": ".tiff",
    b"MM\x00*": ".tiff",
}


class MissingPictureError(InputError, ValueError):
    """A row names a picture that is not there: not downloaded, or outside the data's folder."""


class Pictures:
    """Finds or writes the pictures of a data set.

    `folder`: where the data set lies; `out`: where pictures that stand inside rows are written,
    named by the sha256 of their bytes.
    """

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.out = out

    def get(self, value: Any) -> Path | None:
        """The path of a picture given as a path, a URL, bytes, or {"bytes", "path"}; None for None.

        Raises MissingPictureError when no such file lies in the folder, ValueError for bytes that
        are no picture or that there is no folder to write to.
        """
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return self._write(value)
        if isinstance(value, str) and value:
            return self._find(value)
        raise ValueError(f"a picture is given as {type(value).__name__}")

    def one(self, values: Any) -> Path | None:
        """The only picture of a list (or of a single value), None when the list is empty.

        Raises ValueError when there are several, and what `get` raises.
        """
        listed = values if isinstance(values, list | tuple) else [values]
        if len(listed) > 1:
            raise ValueError(f"{len(listed)} pictures, one is supported")
        return self.get(listed[0]) if listed else None

    def _find(self, given: str) -> Path:
        # A data file must not be able to name any file of the machine, so only what lies in the
        # folder counts: as a path relative to it, else by its bare name.
        name = urlparse(given).path if "://" in given else given
        relative = (self.folder / name).resolve()
        if relative.is_relative_to(self.folder) and relative.is_file():
            return relative
        found = self._by_name.get(Path(name).name, [])
        if len(found) != 1:
            many = f"{len(found)} files" if found else "no file"
            raise MissingPictureError(f"picture {given!r}: {many} of that name in {self.folder}")
        return found[0]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.resolve().is_relative_to(self.folder):
                index.setdefault(path.name, []).append(path)
        return index

    def _write(self, data: bytes) -> Path:
        if self.out is None:
            raise ValueError("the picture stands inside the row: name a folder to write it to")
        path = self.out / (hashlib.sha256(data).hexdigest() + _suffix(data))
        if not path.exists():
            self.out.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(data)
            part.replace(path)
        return path


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    for signature, suffix in _SIGNATURES.items():
        if data.startswith(signature):
            return suffix
    raise ValueError("the picture is not a JPEG, PNG, WebP, GIF, BMP or TIFF")
