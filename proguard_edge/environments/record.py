"""What an environment was made of, as it stands in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from proguard_edge.environments.own import origin
from proguard_edge.errors import InputError
from proguard_edge.stages import STAGES, TARGETS

RECORD = "environment.json"


@dataclass(frozen=True)
class Made:
    """stage, target, additions (stages that joined it): what it is. locks: the folder of the lock
    files. lock: SHA-256 (hex) of these. origin: of the proguard-edge in it, see `own.origin`; ""
    without one."""

    stage: str
    target: str
    additions: tuple[str, ...]
    locks: str
    lock: str
    origin: str

    @classmethod
    def of(cls, stage: str, target: str, additions: Iterable[str], locks: Path) -> Made:
        """What would be made now. Raises InputError where a lock file is missing."""
        names = (stage, *additions)
        own = origin() if STAGES[stage].own else ""
        return cls(stage, target, names[1:], str(locks), digest(names, target, locks), own)

    @property
    def command(self) -> str:
        """The one line that makes it."""
        return make_it(self.stage, self.target, self.additions)

    def outdated(self) -> str | None:
        """What has changed since it was made, None: nothing."""
        try:
            now = Made.of(self.stage, self.target, self.additions, Path(self.locks))
        except InputError:
            return "lock files that are gone"
        if self.origin != now.origin:
            return "another version of proguard-edge"
        return None if self.lock == now.lock else "other lock files"


@dataclass(frozen=True)
class Environment:
    """An environment that was made to its end. folder: where it really lies."""

    folder: Path
    made: Made

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")


def read(folder: Path, stage: str) -> Environment | None:
    """The environment of the stage in this folder, None where none was completed.

    Raises InputError for a record that is not of this stage, or cannot be read.
    """
    try:
        fields = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        additions = tuple(str(name) for name in fields.pop("additions"))
        found = Made(additions=additions, **{name: str(told) for name, told in fields.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{folder / RECORD}: damaged: {make_it(stage)} makes it anew") from None
    known = found.target in TARGETS and {*additions} <= STAGES.keys()
    if found.stage != stage or not known:
        raise InputError(f"{folder / RECORD}: not of {stage}: {make_it(stage)} makes it anew")
    return Environment(folder, found)


def write(folder: Path, made: Made) -> None:
    """The record that tells that an environment is complete."""
    with (folder / RECORD).open("w", encoding="utf-8") as file:
        json.dump(asdict(made), file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def digest(names: Iterable[str], target: str, locks: Path) -> str:
    """SHA-256 (hex) of the lock files of these stages. Raises InputError where one is missing."""
    state = hashlib.sha256()
    for stage in (STAGES[name] for name in names):
        lock = locks / stage.lock(target)
        if not lock.is_file():
            raise InputError(f"{lock}: {stage.no_lock()}")
        state.update(lock.read_bytes())
    return state.hexdigest()


def make_it(stage: str, target: str = "cpu", additions: Iterable[str] = ()) -> str:
    """The one line that makes the environment of a stage."""
    joined = "".join(f" --with {name}" for name in additions)
    return f"proguard-edge env create {stage}{joined}" + (
        f" --target {target}" if target != "cpu" else ""
    )
