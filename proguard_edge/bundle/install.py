"""Install: a bundle becomes a folder that runs; the one before it stays, and can come back.

    PREFIX/versions/NAME/       venv, and what came: artifacts, policies, wheels …, the manifest,
                                its signature
    PREFIX/current → the version in use       PREFIX/previous → the one before it
    PREFIX/bin/proguard-edge    runs the current one

A version is in use from the moment in which `current` is replaced, which happens in one step, after
all of it was unpacked, installed and has given a verdict. Whatever stops before that leaves the
version in use as it was, and is cleared away by the next try. The same bundle installed again is
made anew as a whole, beside the folder in use, which goes when the new one is in use.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proguard_edge.bundle import prefix as places
from proguard_edge.bundle.archive import MANIFEST, SIGNATURE
from proguard_edge.bundle.packages import VENV, first_verdict, make_environments
from proguard_edge.bundle.prefix import COMPLETE, DIGITS, UNPACKING, VERSIONS
from proguard_edge.bundle.verify import Manifest, Report, unpack
from proguard_edge.errors import ArtifactError, InputError, ProGuardEdgeError

WRAPPER = """#!/bin/sh
# Runs the version in use.
exec {command} "$@"
"""


@dataclass(frozen=True)
class Installed:
    """A version in a prefix."""

    folder: Path
    manifest: Manifest

    @property
    def artifact(self) -> Path | None:
        """The first artifact that came along; None = the starter in the package."""
        names = self.manifest.artifacts
        return self.folder / "artifacts" / names[0] if names else None


def install(
    bundle: Path,
    public_key: str | None,
    prefix: Path,
    *,
    downgrade: bool = False,
    say: Callable[[str], None] = lambda _line: None,
    report: Report = lambda _path, _bytes: None,
) -> Installed:
    """Verify, unpack, make the environment, try it, and put it in use.

    say: told each step. Raises ArtifactError (the bundle, or an older one than is in use),
    InputError (the machine: another Python, no room, another install running).
    """
    prefix = prefix.absolute()
    with places.locked(prefix):
        fresh = prefix / VERSIONS / UNPACKING
        places.remove(fresh)
        say("verifying and unpacking")
        manifest = unpack(bundle, public_key, fresh, report)
        _check_machine(manifest)
        _check_release(prefix, manifest, downgrade)
        places.clear(prefix)
        (fresh / MANIFEST).write_bytes(manifest.raw)
        if manifest.proof is not None:
            (fresh / SIGNATURE).write_bytes(manifest.proof)
        done = Installed(places.free(prefix, manifest.digest), manifest)
        # A virtual environment holds its own path: it is made where it stays.
        fresh.replace(done.folder)
        _complete(done, say)
        say("putting it in use")
        places.use(prefix, done.folder)
        places.write(prefix / "bin" / "proguard-edge", _wrapper(prefix), 0o755)
        places.clear(prefix)
    return done


def rollback(prefix: Path) -> Installed:
    """Put the version before in use again. Raises InputError when there is none, ArtifactError
    where it is damaged."""
    prefix = prefix.absolute()
    if not prefix.exists():
        raise InputError(f"{prefix}: there is no such folder")
    with places.locked(prefix):
        before = places.linked(prefix / "previous")
        if before is None or not places.complete(before):
            raise InputError(f"{prefix}: no version to go back to")
        found = installed_in(before)
        places.use(prefix, before)
        return found


def current(prefix: Path) -> Installed | None:
    """The version in use. Raises InputError, ArtifactError where its manifest is damaged."""
    folder = places.linked(prefix / "current")
    return None if folder is None else installed_in(folder)


def versions(prefix: Path) -> list[Installed]:
    """Every version that was installed to the end, in the order of their releases.

    Raises InputError, ArtifactError for a damaged one.
    """
    folders = filter(places.complete, (prefix / VERSIONS).glob("*"))
    return sorted(map(installed_in, folders), key=lambda each: each.manifest.release)


def installed_in(folder: Path) -> Installed:
    """The version in that folder. Raises InputError, ArtifactError for what holds none."""
    proof = folder / SIGNATURE
    try:
        signed = proof.read_bytes() if proof.exists() else None
        found = Installed(folder, Manifest.parse((folder / MANIFEST).read_bytes(), signed))
    except OSError as error:
        what = error.strerror or error
        raise InputError(f"{error.filename or folder}: {what}; install the bundle again") from None
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: {error}; install the bundle again") from None
    if found.manifest.digest[:DIGITS] != places.beginning(folder):
        raise ArtifactError(
            f"{folder / MANIFEST}: is not the one that the bundle came with; install it again"
        )
    return found


def _complete(version: Installed, say: Callable[[str], None]) -> None:
    """Make its environments and try them. Raises InputError: nothing of it is left then."""
    folder, manifest = version.folder, version.manifest
    try:
        say("installing packages, without a network")
        make_environments(folder, manifest, say)
        say("trying it: a verdict")
        first_verdict(folder, manifest, version.artifact)
    except BaseException:
        # The next try needs the room.
        places.remove(folder)
        raise
    os.sync()
    places.write(folder / COMPLETE, f"{manifest.release}\n".encode())


def _wrapper(prefix: Path) -> bytes:
    command = shlex.quote(str(prefix / "current" / VENV / "bin" / "proguard-edge"))
    return WRAPPER.format(command=command).encode()


def _check_machine(manifest: Manifest) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != manifest.python:
        raise InputError(
            f"the bundle is for Python {manifest.python} and this is {here}: run the install with "
            f"python{manifest.python}"
        )
    machine = os.uname().machine if hasattr(os, "uname") else "unknown"
    if manifest.fields.get("machine") not in (None, machine):
        raise InputError(f"the bundle is for {manifest.fields['machine']}, this is {machine}")


def _check_release(prefix: Path, manifest: Manifest, downgrade: bool) -> None:
    """Raises ArtifactError for an older release than is in use, or where nothing tells which is.

    The same bundle may always be installed again, whatever became of its folder.
    """
    folder = places.linked(prefix / "current")
    if folder is None or downgrade or places.beginning(folder) == manifest.digest[:DIGITS]:
        return
    used = _release(folder)
    if used is None:
        raise ArtifactError(
            f"{folder}: is in use and damaged, and nothing in it tells which release it was; "
            "install its own bundle again, or another with --allow-downgrade"
        )
    if manifest.release < used:
        raise ArtifactError(
            f"release {manifest.release} is older than {used}, which is in use; `bundle rollback` "
            "goes back to the version before, --allow-downgrade installs it anyway"
        )


def _release(folder: Path) -> int | None:
    """The release of a version: from its manifest, from what was noted at the end of its install
    where that is damaged; None where nothing tells."""
    try:
        return installed_in(folder).manifest.release
    except ProGuardEdgeError:
        pass
    try:
        return int((folder / COMPLETE).read_bytes())
    except (OSError, ValueError):
        return None
