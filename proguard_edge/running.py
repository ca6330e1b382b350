"""Run a command of another program to its end, and say in one line why it failed.

Python's standard library alone: the script beside a bundle runs it too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from proguard_edge.errors import InputError


def run(
    command: Sequence[str],
    what: str,
    *,
    environment: Mapping[str, str] = os.environ,
    allowed: Sequence[int] = (0,),
    seconds: float | None = None,
    shown_on: IO[str] | None = None,
    umask: int = -1,
    whole: bool = False,
) -> str:
    """What it printed; "" where that is shown as it comes, on `shown_on`.

    allowed: exit codes. umask: of what it makes; -1 = that of this process. Raises InputError,
    which begins with `what` and tells its last word (whole: all of them), when it leaves otherwise,
    takes longer than `seconds` or cannot be started.
    """
    try:
        done = subprocess.run(
            command,
            stdout=shown_on or subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            timeout=seconds,
            umask=umask,
        )
    except OSError as error:
        raise InputError(f"{what}: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{what} took longer than {seconds:g} s") from None
    if done.returncode not in allowed:
        said = done.stderr.strip() or (done.stdout or "").strip() or "no output"
        raise InputError(f"{what} failed: {' '.join(said.split()) if whole else _cause(said)}")
    return done.stdout or ""


def without_indexes(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what could bring pip's index back, or Python another module."""
    kept = {name: value for name, value in base.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull}


def own_umask() -> int:
    """This process's umask, with which nobody but the owner may write at least."""
    found = os.umask(0o022)
    os.umask(found)
    return found | 0o022


def _cause(said: str) -> str:
    """The line that tells most: pip ends with notes, and shows errors of its own errors' children
    further in."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    others = [line for line in lines if not line.startswith(("note:", "hint:", "[notice]"))]
    return (errors or others or lines)[-1]
