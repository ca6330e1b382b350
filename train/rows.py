"""One schema for labelled samples, and the reader of the project's unified JSONL."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = ("safe", "unsafe")


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
        )

    def in_held_out(self, percent: int = 4) -> bool:
        """Whether this row belongs to the held-out part of train; decided by its id alone."""
        return int(hashlib.sha256(self.id.encode()).hexdigest()[:8], 16) % 100 < percent


def read_jsonl(path: Path) -> Iterator[Row]:
    """Rows of one `.jsonl` or `.jsonl.gz` file, in file order."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield Row.from_dict(json.loads(line), path.parent)


def read_folder(folder: Path) -> list[Row]:
    """Every row of every JSONL file of a folder, sorted by file name."""
    files = sorted(p for p in folder.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
    return [row for file in files for row in read_jsonl(file)]
