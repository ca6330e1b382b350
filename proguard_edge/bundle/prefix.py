"""A prefix: the folder that bundles are installed into, and what in it may be removed.

    PREFIX/.proguard-edge   tells that it is one; held by the install that runs
    PREFIX/versions/NAME/   a version. NAME: 16 digits of the digest of its manifest; the same
                            bundle installed again is NAME-2, and so on
    PREFIX/current → the version in use       PREFIX/previous → the one before it

Only folders with such a name are ever removed, and only in a prefix. Runs in the script beside a
bundle, so it needs Python's standard library alone.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proguard_edge.errors import InputError
from proguard_edge.held import held

MARKER = ".proguard-edge"
VERSIONS = "versions"
UNPACKING = ".unpacking"
# In a version that was installed to the end; holds the number of its release.
COMPLETE = "complete"
DIGITS = 16
_NAME = re.compile(rf"([0-9a-f]{{{DIGITS}}})(-[0-9]+)?")


@contextmanager
def locked(prefix: Path) -> Iterator[None]:
    """For one install at a time; the folder is made where there is none.

    Raises InputError: another install is running, or the folder holds something else.
    """
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        # A disk of its own holds a folder for what is found on it.
        others = [path for path in prefix.iterdir() if path.name != "lost+found"]
        if others and not (prefix / MARKER).exists():
            raise InputError(
                f"{prefix}: is not empty, and nothing of proguard-edge was installed into it; "
                "name a new folder as the prefix"
            )
    except OSError as error:
        raise InputError(f"{prefix}: {error.strerror or error}") from None
    with held(prefix / MARKER, f"{prefix}: another install is running"):
        # Behind the marker: without it the folder would be somebody else's.
        try:
            (prefix / VERSIONS).mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{prefix}: {error.strerror or error}") from None
        yield


def beginning(folder: Path) -> str | None:
    """How the digest of the manifest in that folder begins; None: no folder of a version."""
    match = _NAME.fullmatch(folder.name)
    return match[1] if match else None


def free(prefix: Path, digest: str) -> Path:
    """A folder that is not there yet, for the version whose manifest has that digest."""
    first = prefix / VERSIONS / digest[:DIGITS]
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], others) if not os.path.lexists(path))


def complete(folder: Path) -> bool:
    """Whether it is a version that was installed to the end."""
    return beginning(folder) is not None and (folder / COMPLETE).exists()


def linked(link: Path) -> Path | None:
    """The version that `current` or `previous` means."""
    return link.parent / VERSIONS / link.readlink().name if link.is_symlink() else None


def use(prefix: Path, folder: Path) -> None:
    """Point `current` at the folder, and `previous` at what it pointed at, if that was another
    bundle."""
    before = linked(prefix / "current")
    if before is not None and beginning(before) != beginning(folder):
        _point(prefix / "previous", before)
    _point(prefix / "current", folder)


def clear(prefix: Path) -> None:
    """Remove versions that stopped installs left, and other copies of the one in use."""
    used = linked(prefix / "current")
    for folder in (prefix / VERSIONS).iterdir():
        name = beginning(folder)
        if name is None or folder == used:
            continue
        if not complete(folder) or (used is not None and name == beginning(used)):
            remove(folder)


def remove(folder: Path) -> None:
    """Remove it and what is in it, if it is there; of a link the link alone."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def write(path: Path, raw: bytes, mode: int = 0o644) -> None:
    """Write a file so that it is there as a whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(mode)
    temporary.replace(path)
    _sync(path.parent)


def _point(link: Path, folder: Path) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path(VERSIONS) / folder.name)
    temporary.replace(link)
    _sync(link.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
