"""The user's cache folder: prefix keys and values, and which artifacts were verified.

`$PROGUARD_EDGE_CACHE`, else `$XDG_CACHE_HOME/proguard-edge`, else `~/.cache/proguard-edge`. What
lies in it can change verdicts, so it is used only while it belongs to this user and nobody else
may write to it. A cache that cannot be used costs time, never a verdict.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


class Cache:
    """A folder of small files, written whole or not at all. `folder=None` caches nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder if folder is not None and refusal(folder) is None else None

    @classmethod
    def default(cls) -> Cache:
        """The folder named by the environment; an empty `$PROGUARD_EDGE_CACHE` turns it off."""
        return cls(default_folder())

    def path(self, name: Path | str) -> Path | None:
        """Where a cached file lies, or None when it is not there."""
        if self.folder is None:
            return None
        path = self.folder / name
        return path if path.is_file() else None

    def has(self, name: Path | str) -> bool:
        """Whether a file of that name was cached."""
        return self.path(name) is not None

    def write(self, name: Path | str, *parts: bytes | memoryview) -> bool:
        """Store the bytes; False when the folder cannot be written (full, read-only)."""
        if self.folder is None:
            return False
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with temporary.open("xb") as file:
                for part in parts:
                    file.write(part)
            temporary.replace(path)
        except OSError:
            # Where its folder is none, even looking for the file to remove is an error.
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True

    def prune(self, name: str, limit: int) -> None:
        """Remove the oldest files of a subfolder until they take at most `limit` bytes."""
        if self.folder is None:
            return
        try:
            paths = [path for path in (self.folder / name).iterdir() if path.is_file()]
            files = [(p.stat().st_mtime_ns, p.stat().st_size, p) for p in paths]
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= limit:
                    break
                path.unlink(missing_ok=True)
                total -= size
        except OSError:
            # Another process pruned at the same time, or the folder is read-only: next time.
            return


def default_folder() -> Path | None:
    """The folder that the environment names, None where it names none."""
    named = os.environ.get("PROGUARD_EDGE_CACHE")
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "proguard-edge"
    except RuntimeError:
        return None


def refusal(folder: Path) -> str | None:
    """Make the folder if need be; why it is not ours alone to write, None where it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
    except OSError as error:
        return f"it cannot be made: {error.strerror or error}"
    if not hasattr(os, "getuid"):
        return None
    if info.st_uid != os.getuid():
        return "it belongs to another user"
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it"
    return None
