"""Numpy's BLAS on one thread while a verdict is made.

Threads of OpenBLAS spin for some 25 ms after each product, on cores that the engine then lacks;
our own products are too small to gain from threads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """A block in which OpenBLAS uses one thread, in the whole process; afterwards as before.

    Where blocks of several threads overlap, the first to begin decides when the limit ends.
    """
    block: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return block


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")
