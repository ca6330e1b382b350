"""Write the manifest of a folder; a signature on another one is removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from proguard_edge.artifact.format import FORMAT, MANIFEST, SIGNATURE, Artifact, file_digest

HALF = ".tmp"


def write_artifact(
    folder: Path, description: dict[str, Any], say: Callable[[str], None] = lambda _line: None
) -> Artifact:
    """List every file of `folder` with size and digest, and write `artifact.json`.

    `description` holds the manifest's other fields. The result is read back and returned. `say` is
    told where a signature had to go, because it was on the manifest as it was before.
    """
    drop_halves(folder)
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in (MANIFEST, SIGNATURE):
            files[name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    manifest = {"format": FORMAT, **description, "files": files}
    raw = (json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
    temporary = half(folder / MANIFEST, raw)
    if (folder / SIGNATURE).exists() and not _holds(folder / MANIFEST, raw):
        # Before the new manifest is there: what stops in between leaves nothing untrue.
        (folder / SIGNATURE).unlink()
        say(
            f"{SIGNATURE} was on the manifest as it was and is removed; "
            "`proguard-edge artifact sign` signs it again"
        )
    temporary.replace(folder / MANIFEST)
    return Artifact.open(folder)


def half(path: Path, raw: bytes) -> Path:
    """Write a file beside `path`, whole; renaming it to `path` is the other half.

    One that is stopped in between leaves it: `drop_halves` removes it.
    """
    temporary = path.with_name(path.name + HALF)
    temporary.write_bytes(raw)
    return temporary


def drop_halves(folder: Path, listed: Iterable[str] = ()) -> None:
    """Remove what a write that was stopped left in an artifact, unless its manifest lists it."""
    for name in {MANIFEST + HALF, SIGNATURE + HALF}.difference(listed):
        (folder / name).unlink(missing_ok=True)


def _holds(path: Path, raw: bytes) -> bool:
    return path.is_file() and path.read_bytes() == raw
