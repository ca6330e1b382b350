"""Exit codes of every command, and how an error reaches the person at the terminal."""

from __future__ import annotations

import functools
import os
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
    """Turn an error into one line on stderr, `error: …`, and exit code 3.

    Also one that nobody foresaw, and Ctrl-C: Python and click leave with 1 there, which here
    means that something was found unsafe. `PROGUARD_EDGE_DEBUG=1` shows the traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ProGuardEdgeError as error:
            _report(str(error))
        except KeyboardInterrupt:
            _report("stopped")
        except BrokenPipeError:
            # Whoever read has left, as `head` does: nobody needs a line, or Python's at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            if os.environ.get("PROGUARD_EDGE_DEBUG"):
                raise
            _report(f"unexpected {type(error).__name__}: {error}")
        sys.exit(ERROR)

    return wrapped


def _report(message: str) -> None:
    click.echo(f"error: {printable(message)}", err=True)


def printable(text: str) -> str:
    """The text on one line, safe to show: errors quote files, and files may hold escape codes."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
