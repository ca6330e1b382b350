"""Verify: that every byte of a bundle is what was signed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from proguard_edge import signature
from proguard_edge.bundle import archive
from proguard_edge.bundle.archive import MANIFEST, SIGNATURE, Entry
from proguard_edge.errors import ArtifactError

FORMAT = "proguard-edge-bundle/1"
Report = Callable[[str, int], None]


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds. release: grows with each one that its maker gives out, from 1.

    digest: SHA-256 (hex) of the manifest. target: what the wheels are for. python: "3.11".
    stages: which commands work. artifacts: names. fields: the whole manifest. proof: the signature
    that came with it, checked or not.
    """

    name: str
    release: int
    digest: str
    target: str
    python: str
    stages: tuple[str, ...]
    artifacts: tuple[str, ...]
    files: tuple[Entry, ...]
    fields: dict[str, Any]
    raw: bytes = field(repr=False)
    proof: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, raw: bytes, proof: bytes | None = None) -> Manifest:
        """Raises ArtifactError: malformed, of another version, or a path that leads outside."""
        try:
            fields = json.loads(raw)
            if fields["format"] != FORMAT:
                raise ArtifactError(f"{MANIFEST}: format {fields['format']!r}, not {FORMAT}")
            files = tuple(
                Entry(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in fields["files"]
            )
            found = cls(
                name=str(fields["name"]),
                release=int(fields["release"]),
                digest=hashlib.sha256(raw).hexdigest(),
                target=str(fields["target"]),
                python=str(fields["python"]),
                stages=tuple(map(str, fields["stages"])),
                artifacts=tuple(map(str, fields["artifacts"])),
                files=files,
                fields=fields,
                raw=raw,
                proof=proof,
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise ArtifactError(f"{MANIFEST}: malformed, or altered") from None
        paths = [entry.path for entry in files]
        if len(set(paths)) != len(paths) or {MANIFEST, SIGNATURE} & set(paths):
            raise ArtifactError(f"{MANIFEST}: lists a file twice")
        if bad := [path for path in paths if not archive.safe(path)]:
            raise ArtifactError(f"{MANIFEST}: lists a file outside the bundle: {bad[0]!r}")
        return found

    def check_signature(self, public_key: str) -> None:
        """That it is signed by this key (PEM). Raises ArtifactError that names the file."""
        if self.proof is None:
            raise ArtifactError(f"{SIGNATURE}: the bundle is not signed")
        signature.check(self.proof, public_key, self.digest, MANIFEST, SIGNATURE)


@contextmanager
def reading(path: Path, public_key: str | None) -> Iterator[tuple[Manifest, IO[bytes], int]]:
    """The manifest, its signature checked, and the stream of files behind it; bytes read so far.

    public_key: PEM; None takes a bundle without looking who signed it. Raises ArtifactError.
    """
    with archive.opened(path) as stream:
        raw = archive.head(stream, MANIFEST)
        manifest = Manifest.parse(raw)
        read = _spans(len(raw))
        if manifest.fields.get("signed") is True:
            proof = archive.head(stream, SIGNATURE)
            manifest, read = replace(manifest, proof=proof), read + _spans(len(proof))
        if public_key is not None:
            manifest.check_signature(public_key)
        yield manifest, stream, read


def verify(
    path: Path, public_key: str | None, report: Report = lambda _path, _bytes: None
) -> Manifest:
    """Check every byte. Raises ArtifactError that names the first file that is not as signed."""
    with reading(path, public_key) as (manifest, stream, read):
        for entry in manifest.files:
            for chunk in archive.body(stream, entry):
                report(entry.path, len(chunk))
            read += _spans(entry.size)
        archive.end(stream, read)
    return manifest


def unpack(
    path: Path,
    public_key: str | None,
    folder: Path,
    report: Report = lambda _path, _bytes: None,
) -> Manifest:
    """`verify`, and every file into `folder`. On an error what was unpacked must not be used."""
    with reading(path, public_key) as (manifest, stream, read):
        for entry in manifest.files:
            target = folder / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for chunk in archive.body(stream, entry):
                    file.write(chunk)
                    report(entry.path, len(chunk))
            read += _spans(entry.size)
        archive.end(stream, read)
    return manifest


def changes(old: Path, new: Path) -> dict[str, list[str]]:
    """ "added", "removed" and "changed" paths, by the manifests alone. Raises ArtifactError."""
    with reading(old, None) as (manifest, _, _):
        before = {entry.path: entry.sha256 for entry in manifest.files}
    with reading(new, None) as (manifest, _, _):
        after = {entry.path: entry.sha256 for entry in manifest.files}
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(p for p in after.keys() & before.keys() if after[p] != before[p]),
    }


def _spans(size: int) -> int:
    return archive.BLOCK + size + -size % archive.BLOCK
