"""Make the environment of a stage from its lock file, with an index or with a folder of wheels.

    ROOT/STAGE → STAGE.<random>     the environment in use, and beside it the one before

An environment is in use from the moment in which the link is replaced, when all of it is there.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proguard_edge.environments.lookup import FOLDER, current, root
from proguard_edge.environments.own import checkout, write_wheel
from proguard_edge.environments.record import Environment, Made, write
from proguard_edge.errors import InputError
from proguard_edge.held import held
from proguard_edge.requirements import BUILD, LOCKS
from proguard_edge.running import own_umask, run, without_indexes
from proguard_edge.stages import PYTHON, STAGES, Stage

MACHINE = "x86_64"
PROBE = "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"


@dataclass(frozen=True)
class Plan:
    """What is made. additions: stages that join this one in its environment. wheelhouse: folder of
    wheels; None = pip asks its index, and `indexes` besides. python: interpreter to make it with.
    locks: folder of lock files."""

    stage: str
    target: str = "cpu"
    additions: tuple[str, ...] = ()
    wheelhouse: Path | None = None
    indexes: tuple[str, ...] = ()
    python: str = sys.executable
    locks: Path = LOCKS

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(STAGES[name] for name in (self.stage, *self.additions))

    @property
    def modules(self) -> list[str]:
        """What must be found in it."""
        own = ["proguard_edge"] if STAGES[self.stage].own else []
        return own + [module for stage in self.stages for module in stage.modules]


def create(plan: Plan, say: Callable[[str], None] = lambda _line: None) -> Path:
    """Make it, or find that it is there already; the link that leads to it.

    What is there stays in use until the new one is whole. Raises InputError: no lock for this
    target, Python or machine; packages that cannot be had; another `env create` of this stage.
    """
    if apart := [stage.name for stage in plan.stages if stage.apart and len(plan.stages) > 1]:
        other = next(stage.name for stage in plan.stages if stage.name != apart[0])
        raise InputError(f"{apart[0]} and {other} cannot be in one environment")
    made = Made.of(plan.stage, plan.target, plan.additions, plan.locks.absolute())
    folder = root()
    if folder is None:
        raise InputError(f"this user has no home: set {FOLDER} to a folder for environments")
    with _locked(folder, plan.stage):
        before = _before(plan.stage)
        if before is not None and before.made == made and _lacks(before.python, plan) == []:
            say("it is there already")
            return folder / plan.stage
        _check_python(plan)
        link = folder / plan.stage
        if link.exists() and not link.is_symlink():
            raise InputError(f"{link}: something else lies here: move it away")
        _clear(folder, plan.stage, before)
        fresh = folder / f"{plan.stage}.{secrets.token_hex(4)}"
        try:
            _make(fresh, plan, say)
            write(fresh, made)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        temporary = folder / f".{plan.stage}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(fresh.name)
        temporary.replace(link)
    return link


def _make(fresh: Path, plan: Plan, say: Callable[[str], None]) -> None:
    say(f"making {fresh}")
    fresh.mkdir(mode=0o755)
    command = [plan.python, "-I", "-m", "venv", str(fresh)]
    run(command, "python -m venv", umask=own_umask(), whole=True)
    python = str(fresh / "bin" / "python")
    locks = [plan.locks / stage.lock(plan.target) for stage in plan.stages]
    say(f"installing {', '.join(stage.name for stage in plan.stages)}")
    _install(python, plan, [part for lock in locks for part in ("-r", str(lock))])
    if STAGES[plan.stage].own:
        _install_own(python, plan)
    if lacks := _lacks(python, plan):
        raise InputError(f"{locks[0]}: brings no {', '.join(lacks)}")


def _before(stage: str) -> Environment | None:
    """What the link leads to; what cannot be read is made anew."""
    try:
        return current(stage)
    except InputError:
        return None


def _lacks(python: str, plan: Plan) -> list[str]:
    """Modules that it does not find; all of them where it cannot be run."""
    try:
        return run([python, "-I", "-c", PROBE, *plan.modules], python).split()
    except InputError:
        return plan.modules


def _check_python(plan: Plan) -> None:
    if all(stage.any_python for stage in plan.stages):
        return
    code = "import platform; print('.'.join(platform.python_version_tuple()[:2]))"
    here = run([plan.python, "-I", "-c", code], plan.python).strip()
    if (here, platform.machine()) != (PYTHON, MACHINE):
        extras = ",".join(extra for stage in plan.stages for extra in stage.extras)
        instead = f", or pip install 'proguard-edge[{extras}]'" if extras else ""
        raise InputError(
            f"{plan.stage} is locked for Python {PYTHON} on {MACHINE}, this is {here} on "
            f"{platform.machine()}: give --python{instead}"
        )


def _clear(folder: Path, stage: str, before: Environment | None) -> None:
    """Remove what stopped tries left; what is in use stays, for who uses it."""
    for path in folder.glob(f"{stage}.*"):
        if path.is_dir() and (before is None or path != before.folder):
            shutil.rmtree(path)


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
    run(
        [*command, *options],
        what,
        environment=environment,
        shown_on=shown_on,
        umask=own_umask(),
    )


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
    source, what = checkout(), "the install of proguard-edge"
    if source is not None:
        # What builds it is pinned like everything else.
        _pip(python, plan, "pip", ["--require-hashes", "-r", str(BUILD)])
        _pip(python, plan, what, ["--no-deps", "--no-build-isolation", "-e", str(source)])
        return
    with tempfile.TemporaryDirectory(prefix="own-") as scratch:
        _pip(python, plan, what, ["--no-deps", "--no-index", str(write_wheel(Path(scratch)))])


@contextmanager
def _locked(folder: Path, stage: str) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None
    busy = f"{folder}: another `env create {stage}` is running"
    with held(folder / f".{stage}.lock", busy):
        yield
