"""Make the environment of a stage from its lock file, with an index or with a folder of wheels."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proguard_edge.environments.lookup import (
    PACKAGE,
    Environment,
    checkout,
    make_it,
    origin,
    root,
)
from proguard_edge.environments.wheel import write_wheel
from proguard_edge.errors import InputError
from proguard_edge.requirements import LOCKS
from proguard_edge.running import run, without_indexes
from proguard_edge.stages import PYTHON, STAGES, Stage

MACHINE = "x86_64"


@dataclass(frozen=True)
class Plan:
    """What is made. additions: stages that join this one in its environment. folder: where; None =
    where the commands find it. wheelhouse: folder of wheels; None = pip asks its index, and
    `indexes` besides. python: interpreter to make it with. locks: folder of lock files."""

    stage: str
    target: str = "cpu"
    additions: tuple[str, ...] = ()
    folder: Path | None = None
    wheelhouse: Path | None = None
    indexes: tuple[str, ...] = ()
    python: str = sys.executable
    locks: Path = LOCKS

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(STAGES[name] for name in (self.stage, *self.additions))


def create(plan: Plan, say: Callable[[str], None] = lambda _line: None) -> Environment:
    """Make it, or find that it is there already.

    A folder in which something else lies is left alone. What a stopped try left is made anew.
    Raises InputError: no lock for this target, Python or machine; packages that cannot be had.
    """
    locks = [_lock(plan, stage) for stage in plan.stages]
    folder = (plan.folder or root() / plan.stage).absolute()
    own = origin() if STAGES[plan.stage].own else ""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    wanted = Environment(folder, plan.stage, plan.target, plan.additions, digest, own)
    if Environment.read(folder) == wanted:
        say("it is there already")
        return wanted
    _check_python(plan)
    _clear(folder)
    say(f"making {folder}")
    run([plan.python, "-I", "-m", "venv", str(folder)], "python -m venv")
    # From here on the folder is ours to remove, also when this stops.
    (folder / f".{PACKAGE}").touch()
    say(f"installing {', '.join(lock.stem for lock in locks)}")
    _install(wanted.python, plan, [part for lock in locks for part in ("-r", str(lock))])
    if own:
        _install_own(wanted.python, plan)
    _check_modules(wanted, plan)
    wanted.write()
    return wanted


def _lock(plan: Plan, stage: Stage) -> Path:
    if stage.name != plan.stage and (stage.apart or STAGES[plan.stage].apart):
        raise InputError(f"{stage.name} and {plan.stage} cannot be in one environment")
    lock = plan.locks / stage.lock(plan.target)
    if not lock.is_file():
        raise InputError(f"{lock}: {stage.no_lock()}")
    return lock


def _check_python(plan: Plan) -> None:
    if all(stage.any_python for stage in plan.stages):
        return
    code = "import platform; print('.'.join(platform.python_version_tuple()[:2]))"
    here = run([plan.python, "-I", "-c", code], plan.python).strip()
    if (here, platform.machine()) != (PYTHON, MACHINE):
        raise InputError(
            f"{plan.stage} is locked for Python {PYTHON} on {MACHINE}, this is {here} on "
            f"{platform.machine()}: give --python, or install the extra of the stage with pip"
        )


def _clear(folder: Path) -> None:
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / f".{PACKAGE}").exists():
        raise InputError(f"{folder}: something else lies here; choose another --folder")
    shutil.rmtree(folder)


def _pip(python: str, plan: Plan, what: str, options: list[str]) -> None:
    """Install; where somebody watches, pip shows how far it is."""
    command = [python, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    environment = dict(os.environ)
    if plan.wheelhouse is not None:
        command += ["--no-index", "--find-links", str(plan.wheelhouse.absolute())]
        environment = without_indexes()
    command += [part for url in plan.indexes for part in ("--extra-index-url", url)]
    shown_on = sys.stderr if sys.stderr.isatty() else None
    command += [] if shown_on else ["--quiet"]
    run([*command, *options], what, environment=environment, shown_on=shown_on)


def _install(python: str, plan: Plan, what: list[str]) -> None:
    try:
        _pip(python, plan, "pip", ["--require-hashes", *what])
    except InputError as error:
        if "+cpu" not in str(error):
            raise
        raise InputError(
            f"{error}; the CPU build of torch lies on an index of its own: add it with "
            "--extra-index URL, or have its wheel in --wheelhouse"
        ) from None


def _install_own(python: str, plan: Plan) -> None:
    source = checkout()
    with tempfile.TemporaryDirectory(prefix="own-") as scratch:
        what = ["-e", str(source)] if source else [str(write_wheel(Path(scratch)))]
        _pip(python, plan, "the install of proguard-edge", ["--no-deps", *what])


def _check_modules(made: Environment, plan: Plan) -> None:
    modules = [module for stage in plan.stages for module in stage.modules]
    code = "import sys, importlib.util as u; print([m for m in sys.argv[1:] if not u.find_spec(m)])"
    lacks = run([made.python, "-I", "-c", code, *modules], "its interpreter").strip()
    if lacks != "[]":
        raise InputError(f"{made.folder} lacks {lacks} after the install: {make_it(plan.stage)}")
