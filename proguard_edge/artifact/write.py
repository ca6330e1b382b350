"""Write the manifest of a folder; a signature on another one is removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proguard_edge.artifact.format import FORMAT, MANIFEST, SIGNATURE, Artifact, file_digest


def write_artifact(
    folder: Path, description: dict[str, Any], say: Callable[[str], None] = lambda _line: None
) -> Artifact:
    """List every file of `folder` with size and digest, and write `artifact.json`.

    `description` holds the manifest's other fields. The result is read back and returned. `say` is
    told where a signature had to go, because it was on the manifest as it was before.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in (MANIFEST, SIGNATURE):
            files[name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    manifest = {"format": FORMAT, **description, "files": files}
    raw = (json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
    temporary = folder / (MANIFEST + ".tmp")
    temporary.write_bytes(raw)
    if (folder / SIGNATURE).exists() and not _holds(folder / MANIFEST, raw):
        # Before the new manifest is there: what stops in between leaves nothing untrue.
        (folder / SIGNATURE).unlink()
        say(
            f"{SIGNATURE} was on the manifest as it was and is removed; "
            "`proguard-edge artifact sign` signs it again"
        )
    temporary.replace(folder / MANIFEST)
    return Artifact.open(folder)


def _holds(path: Path, raw: bytes) -> bool:
    return path.is_file() and path.read_bytes() == raw
