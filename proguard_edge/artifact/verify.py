"""Is the artifact what its manifest says? Sizes at once; digests on demand and on first use."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

from proguard_edge.artifact.format import MANIFEST, SIGNATURE, Artifact, file_digest
from proguard_edge.cache import Cache
from proguard_edge.errors import ArtifactError


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
    for name, entry in artifact.files.items():
        path = artifact.folder / name
        try:
            same = file_digest(path) == entry.sha256
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
        if not same:
            raise ArtifactError(f"{path}: altered: its sha256 is not the manifest's")


def verify_once(artifact: Artifact, cache: Cache) -> None:
    """Sizes always; digests unless these very files (size, times, inode) passed before.

    Who can write both the artifact and the user's cache folder can defeat the memory, not
    `check_digests`. Raises ArtifactError as `check_digests` does.
    """
    check_sizes(artifact)
    state = [artifact.digest, str(artifact.folder.resolve())]
    for name in artifact.files:
        status = check_regular(artifact.folder / name)
        # The mtime can be set back, the ctime cannot.
        times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
        state.append(f"{name}:{status.st_size}:{times}:{status.st_ino}")
    key = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    marker = Path("verified") / key
    if not cache.has(marker):
        check_digests(artifact)
        cache.write(marker, artifact.digest.encode())


def check_regular(path: Path) -> os.stat_result:
    """What `stat` says. Raises ArtifactError unless it is a regular file: a pipe never ends."""
    try:
        status = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}; copy the artifact again") from None
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path}: not a regular file; copy the artifact again")
    return status
