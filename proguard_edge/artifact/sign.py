"""Signatures on artifacts: on the manifest, which names the digest of every other file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proguard_edge.artifact.format import MANIFEST, SIGNATURE, Artifact
from proguard_edge.artifact.verify import check_digests, check_regular
from proguard_edge.artifact.write import drop_halves, half
from proguard_edge.errors import ArtifactError
from proguard_edge.signature import check

MAX_SIGNATURE_BYTES = 1 << 20


def check_signature(artifact: Artifact, public_key: str) -> None:
    """That its manifest, as it was read, is signed by this key (PEM). Looks at no other file.

    Raises ArtifactError: not signed, by another key, or altered since.
    """
    path = artifact.folder / SIGNATURE
    if not path.exists():
        raise ArtifactError(f"{path}: there is none: the artifact is not signed")
    check_regular(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIGNATURE_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    check(raw, public_key, artifact.digest, str(artifact.folder / MANIFEST), str(path))


def sign_artifact(folder: Path, private_key: Path) -> Artifact:
    """Sign what lies in the folder, if every byte is as listed (extra `bundle`).

    A signature that was there is replaced. Raises ArtifactError, InputError; ModuleNotFoundError
    without the extra.
    """
    from proguard_edge.signing import sign

    artifact = Artifact.open(folder)
    manifest = (folder / MANIFEST).read_bytes()
    with _writing(folder):
        drop_halves(folder, artifact.files)
    check_digests(artifact, hashlib.sha256(manifest).hexdigest())
    proof = sign(MANIFEST, manifest, private_key)
    with _writing(folder):
        half(folder / SIGNATURE, proof).replace(folder / SIGNATURE)
    return artifact


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise ArtifactError(f"{folder}: cannot be written ({what}); sign a copy of it") from None
