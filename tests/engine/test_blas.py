"""Numpy's BLAS while a verdict is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from proguard_edge.engine.blas import one_blas_thread
from proguard_edge.guard import Guard


def threads() -> set[int]:
    """Threads of numpy's OpenBLAS; other libraries may bring their own."""
    found = [x for x in threadpool_info() if x["internal_api"] == "openblas"]
    return {x["num_threads"] for x in found if "numpy" in x["filepath"]}


@pytest.fixture(autouse=True)
def _several() -> Iterator[None]:
    if not threads():
        pytest.skip("this numpy does not use OpenBLAS")
    with threadpool_limits(3, "blas"):
        yield


def test_one_thread_inside_and_all_of_them_after() -> None:
    with one_blas_thread():
        assert threads() == {1}
    assert threads() == {3}


def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError
    assert threads() == {3}


def test_blocks_that_overlap_leave_no_limit_behind() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_blas_thread():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        entered.wait(10)
        assert threads() == {1}
    leave.set()
    thread.join()
    assert threads() == {3}


def test_a_verdict_is_made_with_one(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guard.load(tiny_onnx, threads=1, ocr=False) as guard:
        seen, start = [], guard.engine.start
        monkeypatch.setattr(
            guard.engine, "start", lambda ids: (seen.append(threads()), start(ids))[1]
        )
        guard.moderate("How do I sharpen a knife?")
    assert seen == [{1}]
    assert threads() == {3}
