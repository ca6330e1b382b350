"""Create: wheels, artifacts, policies and licences into one signed file. Needs the extra `bundle`.

The same inputs give the same bytes: wheels are pinned by lock files with hashes, the project's own
wheel is built with a fixed date, and nothing of this machine or of the hour goes in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proguard_edge.artifact import Artifact, check_digests
from proguard_edge.artifact.format import MANIFEST as ARTIFACT
from proguard_edge.artifact.format import SIGNATURE as ARTIFACT_SIGNATURE
from proguard_edge.bundle.archive import MANIFEST, SIGNATURE, Writer, safe
from proguard_edge.bundle.sbom import sbom
from proguard_edge.bundle.verify import FORMAT
from proguard_edge.bundle.wheels import Wheelhouse, pin
from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.policy import Policy
from proguard_edge.signing import sign
from proguard_edge.stages import ALL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SCRIPT = "proguard-edge-bundle.pyz"
# What the script beside the bundle is made of: Python's standard library is all that it needs.
SCRIPT_MODULES = (
    *("__init__.py", "errors.py", "held.py", "running.py", "signature.py", "stages.py"),
    *(f"bundle/{name}.py" for name in ("__init__", "archive", "verify", "packages", "prefix")),
    *("bundle/install.py", "bundle/script.py"),
)


@dataclass(frozen=True)
class Plan:
    """What goes in. stages: of `proguard_edge.stages`. project: a checkout, or a wheel of
    proguard-edge. locks: folder of lock files. wheelhouse: wheels that were downloaded before;
    None = pip downloads them."""

    name: str
    release: int
    artifacts: tuple[Path, ...]
    policies: tuple[Path, ...]
    stages: tuple[str, ...]
    project: Path
    locks: Path
    target: str = "cpu"
    python: str = "3.11"
    machine: str = "x86_64"
    wheelhouse: Path | None = None
    max_part_bytes: int | None = None


def create(
    plan: Plan, out: Path, private_key: Path | None, say: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Write the bundle and the script that opens it beside it; their paths.

    Raises InputError, ArtifactError, PolicyError: nothing is written then.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as scratch:
        folder = Path(scratch)
        files: dict[str, Path | bytes] = {}
        own, wheels = _wheels(plan, folder, files, say)
        say("checking artifacts and policies")
        artifacts = _artifacts(plan.artifacts, files)
        for path in plan.policies:
            Policy.load(path)
            if f"policies/{path.name}" in files:
                raise InputError(f"{path}: another policy has this file name")
            files[f"policies/{path.name}"] = path
        files.update(_licences(wheels))
        files["sbom.cdx.json"] = sbom(plan.name, wheels, artifacts)
        say("writing")
        names = [artifact.name for artifact in artifacts]
        return _write(plan, own.name.split("-")[1], files, names, out, private_key)


def _wheels(
    plan: Plan, folder: Path, files: dict[str, Path | bytes], say: Callable[[str], None]
) -> tuple[Path, list[Path]]:
    """Add every wheel that the stages need and the project's own, and the locks that pin them.

    The project's own wheel, and all of them.
    """
    wheelhouse = Wheelhouse(folder / "wheels", plan.python, plan.machine, plan.wheelhouse)
    own = wheelhouse.own(plan.project)
    for stage in [each for each in ALL if each.name in plan.stages]:
        say(f"collecting wheels: {stage.name}")
        lock = stage.lock(plan.target)
        pins = wheelhouse.add(stage, plan.locks / lock)
        # An environment apart gets our own wheel from the one that makes it.
        files[f"requirements/{lock}"] = pins if stage.apart else pins.rstrip() + b"\n" + pin(own)
    wheels = sorted(wheelhouse.folder.glob("*.whl"))
    files.update({f"wheels/{wheel.name}": wheel for wheel in wheels})
    return own, wheels


def _write(
    plan: Plan,
    version: str,
    files: dict[str, Path | bytes],
    artifacts: list[str],
    out: Path,
    private_key: Path | None,
) -> list[Path]:
    if bad := [path for path in files if not safe(path)]:
        raise InputError(f"{bad[0]!r}: not a path for a bundle")
    manifest = _manifest(plan, version, files, artifacts, private_key is not None)
    writer = Writer(out, plan.max_part_bytes)
    writer.add(MANIFEST, manifest)
    if private_key is not None:
        writer.add(SIGNATURE, sign(MANIFEST, manifest, private_key))
    for path in sorted(files):
        writer.add(path, files[path])
    writer.close()
    script = out.with_name(SCRIPT)
    script.write_bytes(script_bytes())
    return [*writer.paths, script]


def _manifest(
    plan: Plan, version: str, files: dict[str, Path | bytes], artifacts: list[str], signed: bool
) -> bytes:
    fields = {
        "format": FORMAT,
        "signed": signed,
        "name": plan.name,
        "release": plan.release,
        "version": version,
        "target": plan.target,
        "machine": plan.machine,
        "python": plan.python,
        "stages": list(plan.stages),
        "artifacts": artifacts,
        "files": [
            {"path": path, "size": size, "sha256": digest}
            for path, (size, digest) in sorted((p, _measured(f)) for p, f in files.items())
        ],
    }
    return (json.dumps(fields, indent=1, ensure_ascii=True) + "\n").encode()


def _measured(file: Path | bytes) -> tuple[int, str]:
    if isinstance(file, bytes):
        return len(file), hashlib.sha256(file).hexdigest()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return file.stat().st_size, digest


def _artifacts(folders: Iterable[Path], files: dict[str, Path | bytes]) -> list[Artifact]:
    """Add each artifact's files, checked to the last byte."""
    found: list[Artifact] = []
    for folder in folders:
        artifact = Artifact.open(folder)
        check_digests(artifact)
        name = artifact.name
        if not _NAME.fullmatch(name) or any(other.name == name for other in found):
            raise ArtifactError(f"{folder}: {name!r} cannot name a folder, or names another too")
        own = (ARTIFACT, ARTIFACT_SIGNATURE) if artifact.signed else (ARTIFACT,)
        for path in (*own, *artifact.files):
            files[f"artifacts/{name}/{path}"] = folder / path
        found.append(artifact)
    return found


def _licences(wheels: Sequence[Path]) -> dict[str, Path | bytes]:
    """The licence files inside the wheels, by package."""
    found: dict[str, Path | bytes] = {}
    for wheel in wheels:
        name = wheel.name.split("-")[0]
        with zipfile.ZipFile(wheel) as content:
            for member in content.namelist():
                last = member.rsplit("/", 1)[-1]
                told = last.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "COPYING"))
                path = f"licences/{name}/{last}"
                if ".dist-info/" in member and told and path not in found and safe(path):
                    found[path] = content.read(member)
    return found


def script_bytes() -> bytes:
    """The script beside a bundle: a zip that Python runs, the same bytes each time."""
    import io

    root = Path(__file__).parents[1]
    main = b"from proguard_edge.bundle.script import main\nmain()\n"
    content: dict[str, bytes] = {"__main__.py": main}
    content |= {f"proguard_edge/{name}": (root / name).read_bytes() for name in SCRIPT_MODULES}
    raw = io.BytesIO(b"#!/usr/bin/env python3\n")
    raw.seek(0, os.SEEK_END)
    with zipfile.ZipFile(raw, "a") as archive:
        for name, source in sorted(content.items()):
            archive.writestr(zipfile.ZipInfo(name), source)
    return raw.getvalue()
