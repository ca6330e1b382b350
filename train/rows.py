"""One schema for labelled samples, and the reader of the project's unified JSONL."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proguard_edge.errors import InputError

if TYPE_CHECKING:
    from proguard_edge.template import Modality

LABELS = ("safe", "unsafe")


class RowError(InputError, ValueError):
    """A row that cannot be read as it stands; the message names the file and the line."""


@dataclass(frozen=True)
class Row:
    """A labelled request, with the agent's response where there was one.

    A label of None means that nobody labelled that part; it never means "safe".
    """

    id: str
    source: str
    licence: str
    user: str | None
    response: str | None
    image: Path | None
    request_label: str | None
    response_label: str | None
    category: str | None
    source_category: str | None = None

    @property
    def modality(self) -> Modality:
        """What there is to look at, decided as `Request.modality` does."""
        if self.image is None:
            return "text"
        spoken = self.response is not None or bool(self.user and self.user.strip())
        return "text-image" if spoken else "image"

    @classmethod
    def from_dict(cls, raw: dict[str, Any], folder: Path | None = None) -> Row:
        """`folder`: what a relative image path is relative to. Raises ValueError on a bad label."""
        for key in ("request_label", "response_label"):
            if raw.get(key) not in (None, *LABELS):
                raise ValueError(
                    f"{raw.get('id')}: {key} is {raw[key]!r}, not safe, unsafe or null"
                )
        image = raw.get("image")
        return cls(
            id=str(raw["id"]),
            source=str(raw["source"]),
            licence=str(raw["licence"]),
            user=raw.get("user"),
            response=raw.get("response"),
            image=(folder or Path()) / image if image else None,
            request_label=raw.get("request_label"),
            response_label=raw.get("response_label"),
            category=raw.get("category"),
            source_category=raw.get("source_category"),
        )

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """The inverse of `from_dict`; the image is named relative to `folder` where it can be."""
        image = self.image and Path(os.path.relpath(self.image, folder)).as_posix()
        return {**asdict(self), "modality": self.modality, "image": image}

    def in_held_out(self, percent: int = 4) -> bool:
        """Whether this row belongs to the held-out part of train; decided by its id alone."""
        return int(hashlib.sha256(self.id.encode()).hexdigest()[:8], 16) % 100 < percent


def read_jsonl(path: Path) -> Iterator[Row]:
    """Rows of one `.jsonl` or `.jsonl.gz` file, in file order. Raises RowError."""
    for number, raw in json_lines(path):
        try:
            yield Row.from_dict(raw, path.parent)
        except KeyError as error:
            raise RowError(f"{path}, line {number}: {error} is missing") from None
        except ValueError as error:
            raise RowError(f"{path}, line {number}: {error}") from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, from 1, and object of every line that is not blank. Raises RowError."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
            except ValueError:
                raise RowError(f"{path}, line {number} is not JSON") from None
            if not isinstance(raw, dict):
                raise RowError(f"{path}, line {number} is not a JSON object")
            yield number, raw


def read_folder(folder: Path) -> list[Row]:
    """Every row of every JSONL file of a folder, sorted by file name."""
    files = sorted(p for p in folder.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
    return [row for file in files for row in read_jsonl(file)]


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Write the unified format, gzipped by the name's end."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row.to_dict(path.parent), ensure_ascii=False) + "\n")
