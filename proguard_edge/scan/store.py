"""The output's folder: the manifest, one file a finished shard, the report.

    DIR/scan.json          the plan
    DIR/parts/000000.jsonl the verdicts of a shard, or .parquet
    DIR/summary.json, report.md, report.png, draft.yaml

A file is there whole or not at all: what exists is finished.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proguard_edge.errors import InputError
from proguard_edge.scan import lines as formats
from proguard_edge.scan.plan import Output, Plan

MANIFEST = "scan.json"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


class Store:
    """The files of one scan. OSErrors of its methods become InputError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"

    def begun(self) -> Plan | None:
        """The plan that was begun here, None where nothing was.

        Raises InputError for a folder that holds something else, or a manifest of another version.
        """
        manifest = self.folder / MANIFEST
        try:
            if manifest.exists():
                return Plan.from_json(manifest.read_text(encoding="utf-8"))
            # A run may have been killed before it had written its manifest.
            if self.folder.exists() and not all(map(_is_temporary, self.folder.iterdir())):
                raise InputError("is not empty and holds no scan; choose another folder")
        except InputError as error:
            raise InputError(f"{self.folder}: {error}") from None
        except OSError as error:
            raise _unusable(self.folder, error) from None
        return None

    def begin(self, plan: Plan) -> None:
        """Write the manifest, or go on with it.

        Raises InputError when the folder lies in a source, or what was begun here is another plan.
        """
        here = self.folder.resolve()
        for source in plan.sources:
            if source.kind == "folder" and here.is_relative_to(Path(source.path).resolve()):
                raise InputError(f"{self.folder}: lies in {source.path}; choose another folder")
        old = self.begun()
        if old is not None and (differences := old.differences(plan)):
            raise InputError(
                f"{self.folder}: was begun with {', '.join(differences)}; choose another folder"
            )
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            for path in [*self.folder.iterdir(), *self._parts.iterdir()]:
                if _is_temporary(path):
                    path.unlink()
        except OSError as error:
            raise _unusable(self.folder, error) from None
        if old is None:
            self.write(MANIFEST, plan.to_json().encode())

    def done(self, output: Output) -> set[int]:
        """Numbers of the finished shards."""
        found = self._parts.glob(f"[0-9]*.{output}")
        return {int(path.stem) for path in found if path.stem.isdecimal()}

    def write_shard(self, number: int, output: Output, jsonl: bytes) -> None:
        """Keep the lines of a shard."""
        data = formats.to_parquet(jsonl) if output == "parquet" else jsonl
        self.write(self._name(number, output), data)

    def read_shard(self, number: int, output: Output) -> Iterator[dict[str, Any]]:
        """The lines of a finished shard. Raises InputError when it cannot be read."""
        path = self.folder / self._name(number, output)
        try:
            yield from formats.read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged, remove it and run again: {error}") from None

    def write(self, name: str, data: bytes) -> None:
        """A file of the folder, whole and on the disk when this returns."""
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise _unusable(path, error) from None

    def _name(self, number: int, output: Output) -> str:
        return f"parts/{number:06}.{output}"


def _is_temporary(path: Path) -> bool:
    return bool(_TEMPORARY.fullmatch(path.name))


def _unusable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read or written: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    # Without it the name of a file may be lost with the power, though its bytes are kept.
    if not hasattr(os, "O_DIRECTORY"):
        return
    number = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
