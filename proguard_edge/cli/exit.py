"""Exit codes of every command, and how an error reaches the person at the terminal."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from proguard_edge.errors import ProGuardEdgeError

SAFE = 0
UNSAFE = 1
USAGE = 2  # click's own code
ERROR = 3

P = ParamSpec("P")
R = TypeVar("R")


def handle_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a ProGuardEdgeError into one line on stderr, `error: …`, and exit code 3."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ProGuardEdgeError as error:
            click.echo(f"error: {printable(str(error))}", err=True)
            sys.exit(ERROR)

    return wrapped


def printable(text: str) -> str:
    """The text on one line, safe to show: errors quote files, and files may hold escape codes."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
