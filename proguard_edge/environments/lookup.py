"""Which environments are there, and whether they may be used."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from proguard_edge.environments.own import PACKAGE
from proguard_edge.environments.record import Environment, read
from proguard_edge.errors import InputError
from proguard_edge.stages import STAGES

FOLDER = "PROGUARD_EDGE_ENVS"
# Set for what runs in an environment: it must not look for another one.
INSIDE = "PROGUARD_EDGE_STAGE"


def root(base: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of the environments; None where nobody says where this user's files lie."""
    if base.get(FOLDER):
        return Path(base[FOLDER]).absolute()
    version = Path(sys.prefix).parent
    if version.parent.name == "versions" and (version / "manifest.json").is_file():
        return version / "envs"
    data = base.get("XDG_DATA_HOME")
    try:
        return (Path(data) if data else Path.home() / ".local" / "share") / PACKAGE / "envs"
    except RuntimeError:
        return None


def find(stage: str) -> Environment | None:
    """The environment of the stage, None where there is none.

    Raises InputError for one that must not be used: it is damaged, of another version, or others
    may change it.
    """
    environment = current(stage)
    if environment is None:
        return None
    for folder in {root(), environment.folder.parent, environment.folder}:
        if folder is not None and (why := _not_ours(folder)):
            raise InputError(
                f"{folder}: {why}, and what lies in it is run: mend that, or remove it"
            )
    command = environment.made.command
    if changed := environment.made.outdated():
        raise InputError(f"{environment.folder} was made by {changed}: {command} makes it anew")
    if not os.access(environment.python, os.X_OK):
        raise InputError(f"{environment.python} cannot be run: {command} makes it anew")
    return environment


def current(stage: str) -> Environment | None:
    """The environment that the stage's link leads to, whether or not it may be used.

    Raises InputError when its record cannot be read.
    """
    folder = root()
    link = None if folder is None else folder / stage
    return read(link.resolve(), stage) if link is not None and link.is_symlink() else None


def found() -> dict[str, Environment | InputError]:
    """By stage: its environment, or why it must not be used."""
    every: dict[str, Environment | InputError] = {}
    for name in STAGES:
        try:
            environment = find(name)
        except InputError as error:
            every[name] = error
        else:
            every |= {} if environment is None else {name: environment}
    return every


def interpreter(stage: str, told: str | None, variable: str | None = None) -> str:
    """The Python that runs a stage that lives apart: the one that was told, by an option or by an
    environment variable, else that of the stage's environment, else this one."""
    if named := told or (os.environ.get(variable) if variable else None):
        return named
    environment = find(stage)
    return sys.executable if environment is None else environment.python


def _not_ours(folder: Path) -> str | None:
    """Why others decide what lies in a folder; None: this user or root alone."""
    if not hasattr(os, "geteuid"):
        return None
    info = folder.stat()
    if info.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    return "others may write to it" if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None
