"""Consoles for tables and progress: a pipe gets no colours and whole lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 160


def stdout_console() -> Console:
    """For results. What is no terminal has no width: nothing is cut there."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE)


def stderr_console() -> Console:
    """For progress."""
    from rich.console import Console

    return Console(stderr=True)
