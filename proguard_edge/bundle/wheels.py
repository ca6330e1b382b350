"""The wheels of a bundle: what its stages pin, for the machine on the other side, and our own.

What exists as source alone is built here, which needs a machine like the other one; the lock file
in the bundle then pins what was built.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from proguard_edge.errors import InputError
from proguard_edge.requirements import BUILD
from proguard_edge.running import run
from proguard_edge.stages import PYTHON, Stage

# The oldest glibc whose wheels are taken, and a newer one for what exists for no older.
GLIBC = {"edgellm": 35}
NAME_BYTES = 100
OWN = re.compile(r"proguard_edge-[^-]+-py3-none-any\.whl")
# 1980-01-01, the first date that a zip can hold.
EPOCH = "315532800"
NOT_BUILT = (".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "runs", "*.work")


class Wheelhouse:
    """Collects wheels in a folder, and the lock files that pin them.

    wheelhouse: folder of wheels that were downloaded before; None = pip downloads them.
    """

    def __init__(self, folder: Path, python: str, machine: str, wheelhouse: Path | None) -> None:
        self.folder = folder
        self.python, self.machine, self.wheelhouse = python, machine, wheelhouse
        folder.mkdir()

    def own(self, project: Path) -> Path:
        """The project's own wheel, the same bytes each time. project: a checkout, or a wheel."""
        if OWN.fullmatch(project.name):
            copy = self.folder / project.name
            copy.write_bytes(project.read_bytes())
            return copy
        if not (project / "pyproject.toml").is_file():
            raise InputError(f"{project}: neither a wheel nor a checkout of proguard-edge")
        # A checkout may hold what an earlier build left, of modules that are no more.
        clean = self.folder.parent / "project"
        shutil.copytree(project, clean, ignore=shutil.ignore_patterns(*NOT_BUILT))
        # What builds it decides its bytes, so that is pinned too, in an environment of its own.
        scratch = self.folder.parent / "build"
        _run([sys.executable, "-I", "-m", "venv", str(scratch)], "python -m venv")
        python = str(scratch / "bin" / "python")
        needs = ["--require-hashes", "-r", str(BUILD), *self._source()]
        _run([*_pip("install", python), *needs], "the install of what builds our wheel")
        command = [*_pip("wheel", python), "--no-deps", "--no-build-isolation", "--no-index"]
        _run([*command, "-w", str(self.folder), str(clean)], "the build of our own wheel")
        return next(self.folder.glob("proguard_edge-*.whl"))

    def add(self, stage: Stage, lock: Path) -> bytes:
        """The wheels of a stage; the lock file that pins them.

        Raises InputError: no such lock, nothing for this machine, or what cannot be downloaded.
        """
        if not lock.is_file():
            raise InputError(f"{lock}: {stage.no_lock()}")
        if not stage.any_python and (self.python, self.machine) != (PYTHON, "x86_64"):
            raise InputError(
                f"the stage {stage.name} is locked for Python {PYTHON} on x86_64, and the bundle "
                f"is for {self.python} on {self.machine}"
            )
        text = lock.read_text(encoding="utf-8")
        sources, wheels = split(text, stage.built)
        rest = self.folder.parent / f"{stage.name}.txt"
        rest.write_text(wheels, encoding="utf-8")
        built = self._build(stage, sources) if sources else b""
        glibc = GLIBC.get(stage.name, 28)
        platforms = [f"manylinux_2_{minor}_{self.machine}" for minor in range(glibc, 4, -1)]
        platforms += [f"manylinux{year}_{self.machine}" for year in ("2014", "2010", "1")]
        command = [
            *(*_pip("download"), "--require-hashes", "--only-binary", ":all:", "--no-deps"),
            *("--implementation", "cp", "--python-version", self.python),
            *(part for tag in platforms for part in ("--platform", tag)),
            *("-d", str(self.folder), "-r", str(rest), *self._source()),
        ]
        _run(command, f"pip download of the stage {stage.name}")
        for wheel in self.folder.glob("*.whl"):
            wheel.replace(wheel.with_name(short(wheel.name)))
        return wheels.encode() + built

    def _build(self, stage: Stage, sources: str) -> bytes:
        """Build wheels of source packages; the lines that pin these."""
        here = (f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())
        if here != (self.python, self.machine):
            raise InputError(
                f"the stage {stage.name} holds packages that are built from source: make its "
                f"bundle with Python {self.python} on {self.machine}, this is {' on '.join(here)}"
            )
        requirements = self.folder.parent / f"{stage.name}-sources.txt"
        requirements.write_text(sources, encoding="utf-8")
        built = self.folder.parent / f"{stage.name}-built"
        command = [*_pip("wheel"), "--no-deps", "--require-hashes", "-w", str(built)]
        command += ["-r", str(requirements), *self._source()]
        _run(command, f"the build of {', '.join(stage.built)}")
        lines = b""
        for wheel in sorted(built.glob("*.whl")):
            wheel.replace(self.folder / wheel.name)
            lines += pin(self.folder / wheel.name)
        return lines

    def _source(self) -> list[str]:
        if self.wheelhouse is None:
            return []
        return ["--no-index", "--find-links", str(self.wheelhouse)]


def pin(wheel: Path) -> bytes:
    """The line of a lock file that pins this wheel."""
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}\n".encode()


def short(name: str) -> str:
    """The file name of a wheel as a bundle can hold it (ustar: 100 bytes): of the platforms that
    it names one is enough, and its digest stays."""
    if len(name) <= NAME_BYTES:
        return name
    *rest, platforms = name.removesuffix(".whl").split("-")
    return "-".join([*rest, min(platforms.split("."), key=len)]) + ".whl"


def split(lock: str, names: Sequence[str]) -> tuple[str, str]:
    """The entries of a lock file for these packages, and the others."""
    chosen = others = ""
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", lock):
        if re.split(r"[=\[ ]", entry)[0] in names:
            chosen += entry
        else:
            others += entry
    return chosen, others


def _pip(command: str, python: str = sys.executable) -> list[str]:
    # -P: no module of the current folder takes the place of pip.
    return [python, "-P", "-m", "pip", command, "--quiet", "--disable-pip-version-check"]


def _run(command: list[str], what: str) -> None:
    # Modes of files go into a wheel: they must not depend on who builds it.
    run(command, what, environment={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}, umask=0o022)
