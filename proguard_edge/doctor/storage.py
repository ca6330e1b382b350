"""The cache folder: whether it can be used, and has room for the state of a prefix."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from proguard_edge.cache import Cache, default_folder, refusal
from proguard_edge.doctor.finding import Finding, Subject, size
from proguard_edge.doctor.memory import prefix_tokens, state_bytes

NAME = "cache"
SLOWER = "every start reads the artifact and its policy again"
PROBE = "doctor"


def check(subject: Subject) -> Iterator[Finding]:
    """The folder, then the disk under it."""
    folder = default_folder()
    yield usable(folder)
    if folder is not None and folder.is_dir() and subject.artifact is not None:
        artifact = subject.artifact
        wanted = 0.0
        if artifact.engine == "onnx":
            wanted = state_bytes(artifact, prefix_tokens(artifact))
        yield room(folder, wanted, shutil.disk_usage(folder).free)


def usable(folder: Path | None) -> Finding:
    """Whether the runtime would use it, and can write to it."""
    if folder is None:
        remedy = "name a folder of this user's own in PROGUARD_EDGE_CACHE"
        return Finding(NAME, "note", f"no folder is named: {SLOWER}", remedy)
    details = {"folder": str(folder)}
    if reason := refusal(folder):
        return Finding(NAME, "warning", f"{folder}: {reason}: {SLOWER}", _remedy(folder), details)
    name = f"{PROBE}/{secrets.token_hex(4)}"
    if not Cache(folder).write(name, b"room?"):
        remedy = "make room there and let this user write, or name another in PROGUARD_EDGE_CACHE"
        found = f"{folder}: it cannot be written: {SLOWER}"
        return Finding(NAME, "warning", found, remedy, details)
    (folder / name).unlink(missing_ok=True)
    return Finding(NAME, "ok", f"{folder}: this user's alone, and can be written", details=details)


def room(folder: Path, wanted: float, free: int) -> Finding:
    """wanted, free: bytes."""
    details = {"folder": str(folder), "free": free, "need": round(wanted)}
    found = f"{size(free)} of disk are free, the state of a prefix takes up to {size(wanted)}"
    if free >= wanted:
        return Finding("disk", "ok", found, details=details)
    remedy = "make room, or name a folder on another disk in PROGUARD_EDGE_CACHE"
    return Finding("disk", "warning", f"{found}: {SLOWER}", remedy, details)


def _remedy(folder: Path) -> str:
    if not folder.is_dir():
        return "name a folder that this user can make in PROGUARD_EDGE_CACHE"
    return f"`chmod go-w` it where it is yours; else name another in PROGUARD_EDGE_CACHE: {folder}"
