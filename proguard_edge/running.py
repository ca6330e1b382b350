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
) -> str:
    """What it printed; "" where that is shown as it comes, on `shown_on`.

    allowed: exit codes. umask: of what it makes; -1 = that of this process. Raises InputError,
    which begins with `what`, when it leaves otherwise, takes longer than `seconds` or cannot be
    started.
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
        lines = (done.stderr.strip() or (done.stdout or "").strip()).splitlines() or ["no output"]
        # pip ends with a notice of a new version of itself.
        told = [line for line in lines if line.startswith("ERROR")] or lines
        raise InputError(f"{what} failed: {told[-1]}")
    return done.stdout or ""


def without_indexes(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what could bring pip's index back, or Python another module."""
    kept = {name: value for name, value in base.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull}
