"""Is the artifact what its manifest says? Sizes at once; digests on demand and on first use."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from proguard_edge.artifact.format import MANIFEST, SIGNATURE, Artifact
from proguard_edge.cache import Cache
from proguard_edge.errors import ArtifactError

CHANGED = "changed while it was read; let nobody write there, and try again"


def check_sizes(artifact: Artifact) -> None:
    """Raises ArtifactError naming a file that is missing, of another size, or not listed."""
    for name, entry in artifact.files.items():
        path = artifact.folder / name
        size = check_regular(path).st_size
        if size != entry.size:
            raise ArtifactError(
                f"{path}: {size} bytes, the manifest says {entry.size}; copy the artifact again"
            )
    _check_no_others(artifact)


def _check_no_others(artifact: Artifact) -> None:
    # Loaders take what lies in a folder: a file that nobody listed could change the model.
    for path in sorted(artifact.folder.rglob("*")):
        name = path.relative_to(artifact.folder).as_posix()
        if path.is_dir():
            # The walk does not follow it, a loader would.
            if path.is_symlink():
                raise ArtifactError(f"{path}: a link to a folder; copy the artifact as files")
        elif name not in artifact.files and name not in (MANIFEST, SIGNATURE):
            raise ArtifactError(f"{path}: not listed in {MANIFEST}; remove it")


def check_digests(artifact: Artifact, digest: str | None = None) -> None:
    """Read every byte. Raises ArtifactError naming the first file that was altered.

    `digest`: the sha256 that `artifact.json` itself must have, where the caller knows it.
    """
    if digest is not None and artifact.digest != digest.lower():
        raise ArtifactError(
            f"{artifact.folder / MANIFEST}: digest {artifact.digest}, expected {digest}"
        )
    check_sizes(artifact)
    _read_all(artifact)


def verify_once(artifact: Artifact, cache: Cache) -> None:
    """Sizes always; digests unless these very files (size, times, inode) passed before.

    What is remembered is the state of the open files that were read, under the digest of the
    manifest that was parsed. Who can write both the artifact and the user's cache folder can defeat
    the memory, not `check_digests`; who can replace the files after this returned defeats both.
    Raises ArtifactError as `check_digests` does, and where the files changed meanwhile.
    """
    check_sizes(artifact)
    seen = {name: _seen(artifact.folder / name) for name in artifact.files}
    marker = _marker(artifact, seen)
    if cache.has(marker):
        return
    if _read_all(artifact) != seen:
        raise ArtifactError(f"{artifact.folder}: {CHANGED}")
    cache.write(marker, artifact.digest.encode())


def _marker(artifact: Artifact, states: dict[str, str]) -> Path:
    told = [artifact.digest, str(artifact.folder.resolve()), states]
    return Path("verified") / hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _read_all(artifact: Artifact) -> dict[str, str]:
    """The state of each file as it was read. Raises ArtifactError naming the first altered one."""
    states = {}
    for name, entry in artifact.files.items():
        path = artifact.folder / name
        digest, states[name] = _read(path)
        if digest != entry.sha256:
            raise ArtifactError(f"{path}: altered: its sha256 is not the manifest's")
    return states


def _read(path: Path) -> tuple[str, str]:
    """sha256 (hex) and state of one open file. Raises ArtifactError where it changes meanwhile."""
    with _opened(path) as file:
        state = _state(file)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _state(file) != state:
            raise ArtifactError(f"{path}: {CHANGED}")
    return digest, state


def _seen(path: Path) -> str:
    with _opened(path) as file:
        return _state(file)


def _state(file: BufferedReader) -> str:
    status = os.fstat(file.fileno())
    # The mtime can be set back, the ctime cannot.
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    return f"{status.st_size}:{times}:{status.st_ino}"


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Raises ArtifactError unless it is a regular file that can be read."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            _check_mode(path, os.fstat(file.fileno()))
            yield file
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None


def _at_once(path: str, flags: int) -> int:
    # Opening a pipe would wait for whoever writes into it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(path: Path) -> os.stat_result:
    """What `stat` says. Raises ArtifactError unless it is a regular file: a pipe never ends."""
    try:
        status = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}; copy the artifact again") from None
    _check_mode(path, status)
    return status


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path}: not a regular file; copy the artifact again")
