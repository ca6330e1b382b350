"""The bundle that this environment was installed from, and whether its files are as they came.

This code is part of what it looks at. Whoever may write to the environment can change it too: what
trust begins with is the script beside the bundle, which verifies before it installs.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from proguard_edge.artifact import Artifact
from proguard_edge.artifact.format import MANIFEST as ARTIFACT
from proguard_edge.artifact.format import file_digest
from proguard_edge.bundle.install import Installed, installed_in
from proguard_edge.bundle.packages import VENV
from proguard_edge.bundle.prefix import VERSIONS, complete
from proguard_edge.doctor.finding import Finding, Subject
from proguard_edge.errors import ArtifactError, ProGuardEdgeError

NAME = "bundle"
FOLDERS = ("artifacts", "policies", "wheels")
STARTER = f"proguard_edge/starter/artifact/{ARTIFACT}"
AGAIN = (
    "install the bundle again: all of it is made anew, and what did not come with it is gone; "
    "change copies alone"
)
NOT_USED = "do not use it: get the bundle again, and ask its maker which key is theirs"
# Findings; --json has the names of all.
MAX_NAMED = 20


def check(subject: Subject) -> Iterator[Finding]:
    """Which release it is, who signed it, and each file that is not as it came."""
    try:
        found = release()
    except ProGuardEdgeError as error:
        yield Finding(NAME, "problem", str(error), AGAIN)
        return
    if found is None:
        yield _of_no_bundle(subject.public_key)
        return
    yield _signature(found, subject.public_key)
    yield from _files(found, list(deviations(found, _verified(subject.artifact))))


def release() -> Installed | None:
    """The version that `bundle install` made this environment for; None: it made none.

    Raises ArtifactError, InputError for a manifest that is gone, or not the one it came with.
    """
    environment = Path(sys.prefix).resolve()
    folder = environment.parent
    if environment.name != VENV or folder.parent.name != VERSIONS or not complete(folder):
        return None
    return installed_in(folder)


def vouched(digest: str, public_key: str) -> str | None:
    """Which release, signed by this key (PEM), holds the artifact of that digest; None: none."""
    try:
        found = release()
        if found is None or not _holds(found, digest):
            return None
        found.manifest.check_signature(public_key)
    except ProGuardEdgeError:
        # What is wrong with the bundle, `check` tells.
        return None
    return _named(found)


def _holds(found: Installed, digest: str) -> bool:
    for entry in found.manifest.files:
        folder, _, rest = entry.path.partition("/")
        if folder == "artifacts" and rest.endswith(f"/{ARTIFACT}") and entry.sha256 == digest:
            return True
        if folder == "wheels" and rest.startswith("proguard_edge-"):
            wheel = found.folder / entry.path
            if _starter_of(wheel) == digest and file_digest(wheel) == entry.sha256:
                return True
    return False


def _starter_of(wheel: Path) -> str | None:
    """The digest of the starter in it."""
    try:
        with zipfile.ZipFile(wheel) as content:
            return hashlib.sha256(content.read(STARTER)).hexdigest()
    except (OSError, KeyError, zipfile.BadZipFile):
        return None


def _named(found: Installed) -> str:
    return f"release {found.manifest.release} of {found.manifest.name}"


def _of_no_bundle(public_key: str | None) -> Finding:
    found = "this environment was not installed from a bundle"
    if public_key is None:
        return Finding(NAME, "ok", found)
    remedy = "nobody signed its packages: `bundle install` makes an environment of signed ones"
    return Finding(NAME, "note", found, remedy)


def _signature(found: Installed, public_key: str | None) -> Finding:
    manifest, name = found.manifest, _named(found)
    details = {
        "name": manifest.name,
        "release": manifest.release,
        "digest": manifest.digest,
        "folder": str(found.folder),
        "signed": manifest.proof is not None,
    }
    if public_key is not None:
        try:
            manifest.check_signature(public_key)
        except ArtifactError as error:
            return Finding(NAME, "problem", f"{name}: {error}", NOT_USED, details)
        return Finding(NAME, "ok", f"{name}, signed by this key", details=details)
    if manifest.proof is None:
        remedy = "rely on the way it came here, or have its maker sign the next one"
        return Finding(NAME, "note", f"{name}, which nobody signed", remedy, details)
    remedy = "`proguard-edge doctor --public-key maker.pub` checks it"
    return Finding(NAME, "note", f"{name}; its signature was not checked", remedy, details)


def _files(found: Installed, faults: list[str]) -> Iterator[Finding]:
    listed = sum(_ours(entry.path) for entry in found.manifest.files)
    if not faults:
        parts = f"{', '.join(FOLDERS[:-1])} and {FOLDERS[-1]}"
        yield Finding(NAME, "ok", f"its {listed} files of {parts} are as they came")
    for number, fault in enumerate(faults[:MAX_NAMED]):
        details = {"faults": faults} if number == 0 else {}
        yield Finding(NAME, "problem", fault, AGAIN, details)
    if more := len(faults[MAX_NAMED:]):
        yield Finding(NAME, "problem", f"and {more} files more", "--json names them")


def deviations(found: Installed, verified: dict[Path, str]) -> Iterator[str]:
    """What is wrong with each file that is not as listed. verified: SHA-256 (hex) of files that
    were read already."""
    listed = {found.folder / e.path: e for e in found.manifest.files if _ours(e.path)}
    links = {link for path in listed if (link := _link(path, found.folder)) is not None}
    for link in sorted(links):
        yield f"{link}: is a link, and came with the bundle as none"
    for path, entry in listed.items():
        if not links.isdisjoint((path, *path.parents)):
            continue
        if not path.is_file():
            yield f"{path}: came with the bundle and is missing"
        elif path.stat().st_size != entry.size or _digest(path, verified) != entry.sha256:
            yield f"{path}: is not as it came with the bundle"
    for name in FOLDERS:
        yield from _strangers(found.folder / name, {*listed, *links})


def _link(path: Path, top: Path) -> Path | None:
    """The first link on the way from a version's folder to a file in it."""
    parts = path.relative_to(top).parts
    ways = (top.joinpath(*parts[:count]) for count in range(1, len(parts) + 1))
    return next((way for way in ways if way.is_symlink()), None)


def _strangers(folder: Path, known: set[Path]) -> Iterator[str]:
    """What lies in a folder and is not known. A link to a folder is not followed."""
    if folder in known:
        return
    if folder.is_symlink():
        yield f"{folder}: did not come with the bundle"
        return
    for path in sorted(folder.rglob("*")):
        if path not in known and (path.is_symlink() or not path.is_dir()):
            yield f"{path}: did not come with the bundle"


def _ours(path: str) -> bool:
    return path.partition("/")[0] in FOLDERS


def _digest(path: Path, verified: dict[Path, str]) -> str:
    return verified[path] if path in verified else file_digest(path)


def _verified(artifact: Artifact | None) -> dict[Path, str]:
    """Of an artifact that may be used every byte has been read: large ones are not read twice."""
    if artifact is None:
        return {}
    folder = artifact.folder.resolve()
    digests = {folder / name: entry.sha256 for name, entry in artifact.files.items()}
    return {**digests, folder / ARTIFACT: artifact.digest}
