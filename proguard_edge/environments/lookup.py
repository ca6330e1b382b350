"""Which environments are there, and whether they are of this version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from proguard_edge.errors import InputError
from proguard_edge.stages import STAGES

RECORD = "environment.json"
FOLDER = "PROGUARD_EDGE_ENVS"
# Set for what runs in an environment: it must not look for another one.
INSIDE = "PROGUARD_EDGE_STAGE"
PACKAGE = "proguard-edge"


@dataclass(frozen=True)
class Environment:
    """An environment that was made to its end. lock: SHA-256 of the lock files it was made from.
    origin: of the proguard-edge in it, as `origin` tells it; "" where there is none in it."""

    folder: Path
    stage: str
    target: str
    additions: tuple[str, ...]
    lock: str
    origin: str

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    @classmethod
    def read(cls, folder: Path) -> Environment | None:
        """None where no environment was completed."""
        try:
            fields = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            additions = tuple(str(name) for name in fields["additions"])
            told = {name: str(fields[name]) for name in ("stage", "target", "lock", "origin")}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{folder / RECORD}: cannot be read: {error}") from None
        return cls(folder=folder, additions=additions, **told)

    def write(self) -> None:
        """The record that tells that it is complete."""
        fields = {name: value for name, value in asdict(self).items() if name != "folder"}
        temporary = self.folder / f".{RECORD}"
        temporary.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.folder / RECORD)

    def check(self) -> None:
        """Raises InputError unless the proguard-edge in it is the one that runs here."""
        if STAGES[self.stage].own and self.origin != origin():
            raise InputError(
                f"{self.folder} was made by another version of proguard-edge: "
                f"{make_it(self.stage, self.target)} makes it anew"
            )


def root(base: Mapping[str, str] = os.environ) -> Path:
    """The folder of the environments."""
    if base.get(FOLDER):
        return Path(base[FOLDER]).absolute()
    installed = Path(sys.prefix).parent
    if (installed / "manifest.json").is_file() and (installed / "requirements").is_dir():
        return installed / "envs"
    data = base.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / PACKAGE / "envs"


def find(stage: str) -> Environment | None:
    """The environment of the stage. Raises InputError when it is of another version."""
    environment = Environment.read(root() / stage)
    if environment is not None:
        environment.check()
    return environment


def found() -> list[Environment]:
    """All environments in the root."""
    folders = (root() / name for name in STAGES)
    return [environment for folder in folders if (environment := Environment.read(folder))]


def interpreter(stage: str, told: str | None, variable: str | None = None) -> str:
    """The Python that runs a stage that lives apart: the one that was told, by an option or by an
    environment variable, else that of the stage's environment, else this one."""
    if named := told or (os.environ.get(variable) if variable else None):
        return named
    environment = find(stage)
    return sys.executable if environment is None else environment.python


def make_it(stage: str, target: str = "cpu") -> str:
    """The one line that makes the environment of the stage."""
    return f"proguard-edge env create {stage}" + (f" --target {target}" if target != "cpu" else "")


def origin() -> str:
    """What tells the proguard-edge that runs here from others: `checkout FOLDER`, or a digest of
    the files that were installed."""
    folder = checkout()
    if folder is not None:
        return f"checkout {folder}"
    lines = sorted(
        f"{path} {path.hash.value}"
        for path in importlib.metadata.files(PACKAGE) or ()
        if path.hash and path.parts[0] == "proguard_edge"
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def checkout() -> Path | None:
    """The checkout that runs here, None where a wheel was installed."""
    folder = Path(__file__).parents[2]
    return folder if (folder / "pyproject.toml").is_file() else None
