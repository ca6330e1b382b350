"""A lock file: held by one process at a time, and let go when that ends, however it ends.

Python's standard library alone: the script beside a bundle uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proguard_edge.errors import InputError


@contextmanager
def held(path: Path, busy: str) -> Iterator[None]:
    """Hold the file, which is made where there is none and never written to.

    Raises InputError: it cannot be made, or another process holds it, of which `busy` tells.
    """
    import fcntl

    try:
        file = path.open("a")
    except OSError as error:
        raise InputError(f"{path.parent}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(busy) from None
        yield
