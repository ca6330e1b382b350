"""Install: a bundle becomes a folder that runs; the one before it stays, and can come back.

    PREFIX/versions/<digest of the manifest, 16 digits>/  venv, and what came: artifacts, policies,
                                                          wheels …, the manifest, its signature
    PREFIX/current → the version in use       PREFIX/previous → the one before it
    PREFIX/bin/proguard-edge                  runs the current one

A version is in use from the moment in which `current` is replaced, which happens in one step, after
all of it was unpacked, installed and has given a verdict. Whatever stops before that leaves the
version in use as it was, and is cleared away by the next try.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proguard_edge.bundle.archive import MANIFEST, SIGNATURE
from proguard_edge.bundle.packages import VENV, first_verdict, make_environments
from proguard_edge.bundle.verify import Manifest, Report, unpack
from proguard_edge.errors import ArtifactError, InputError

COMPLETE = "complete"
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
    with _locked(prefix):
        _clear(prefix)
        fresh = prefix / "versions" / ".unpacking"
        say("verifying and unpacking")
        manifest = unpack(bundle, public_key, fresh, report)
        _check_machine(manifest)
        _check_release(prefix, manifest, downgrade)
        (fresh / MANIFEST).write_bytes(manifest.raw)
        _keep_signature(fresh, manifest)
        final = prefix / "versions" / manifest.digest[:16]
        if not (final / COMPLETE).exists():
            # A virtual environment holds its own path: it is made where it stays.
            shutil.rmtree(final, ignore_errors=True)
            fresh.replace(final)
            say("installing packages, without a network")
            make_environments(final, manifest, say)
            say("trying it: a verdict")
            first_verdict(final, manifest, Installed(final, manifest).artifact)
            os.sync()
            _write(final / COMPLETE, b"")
        else:
            say("it is here already; trying it: a verdict")
            _restore(fresh, final, manifest)
            first_verdict(final, manifest, Installed(final, manifest).artifact)
        say("putting it in use")
        _use(prefix, final)
        _write(prefix / "bin" / "proguard-edge", _wrapper(prefix), 0o755)
        _clear(prefix)
    return Installed(final, manifest)


def rollback(prefix: Path) -> Installed:
    """Put the version before in use again. Raises InputError when there is none."""
    prefix = prefix.absolute()
    with _locked(prefix):
        before = _link(prefix / "previous")
        if before is None or not (before / COMPLETE).exists():
            raise InputError(f"{prefix}: no version to go back to")
        _use(prefix, before)
        return installed_in(before)


def current(prefix: Path) -> Installed | None:
    """The version in use."""
    folder = _link(prefix / "current")
    return None if folder is None else installed_in(folder)


def versions(prefix: Path) -> list[Installed]:
    """Every version that was installed to the end, in the order of their releases."""
    folders = (p for p in (prefix / "versions").glob("*") if (p / COMPLETE).exists())
    return sorted(map(installed_in, folders), key=lambda each: each.manifest.release)


def installed_in(folder: Path) -> Installed:
    """The version in that folder. Raises InputError, ArtifactError for what holds none."""
    proof = folder / SIGNATURE
    try:
        signed = proof.read_bytes() if proof.exists() else None
        return Installed(folder, Manifest.parse((folder / MANIFEST).read_bytes(), signed))
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from None


def _restore(fresh: Path, final: Path, manifest: Manifest) -> None:
    """Put what came into a version that is there; its files may have been changed since."""
    for path in (entry.path for entry in manifest.files):
        (final / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).replace(final / path)
    _keep_signature(final, manifest)
    os.sync()


def _keep_signature(folder: Path, manifest: Manifest) -> None:
    if manifest.proof is not None:
        _write(folder / SIGNATURE, manifest.proof)


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
    used = current(prefix)
    if used is None or downgrade or manifest.release >= used.manifest.release:
        return
    raise ArtifactError(
        f"release {manifest.release} is older than {used.manifest.release}, which is in use; "
        "`bundle rollback` goes back to the version before, --allow-downgrade installs it anyway"
    )


def _use(prefix: Path, folder: Path) -> None:
    """Point `current` at the folder, and `previous` at what it pointed at."""
    before = _link(prefix / "current")
    if before is not None and before != folder:
        _point(prefix / "previous", before)
    _point(prefix / "current", folder)


def _point(link: Path, folder: Path) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("versions") / folder.name)
    temporary.replace(link)
    _sync(link.parent)


def _link(link: Path) -> Path | None:
    return link.parent / "versions" / link.readlink().name if link.is_symlink() else None


def _write(path: Path, raw: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(mode)
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(prefix: Path) -> None:
    """Remove what stopped installs left behind."""
    for folder in (prefix / "versions").glob("*"):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    shutil.rmtree(prefix / "versions" / ".unpacking", ignore_errors=True)


@contextmanager
def _locked(prefix: Path) -> Iterator[None]:
    import fcntl

    try:
        (prefix / "versions").mkdir(parents=True, exist_ok=True)
        file = (prefix / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{prefix}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{prefix}: another install is running") from None
        yield
