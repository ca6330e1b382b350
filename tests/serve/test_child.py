"""A child answers, fails, dies or hangs, and whoever asked learns which."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from stubs import make_echo

from proguard_edge.child import Child
from proguard_edge.errors import ArtifactError, EngineError, LanguageError, WorkerError


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(make_echo, None, "the worker")
    assert child.start(30).startswith("hello from")
    yield child
    child.stop()


def test_it_answers_one_message_after_another(child: Child) -> None:
    assert [child.ask(n, 5) for n in range(3)] == [0, 1, 2]


def test_an_error_keeps_its_class_and_the_child_goes_on(child: Child) -> None:
    with pytest.raises(LanguageError, match="not read here"):
        child.ask("wrong", 5)
    with pytest.raises(EngineError, match="unexpected ZeroDivisionError: of all things"):
        child.ask("fail", 5)
    assert child.ask("still here", 5) == "still here"


def test_a_death_is_a_worker_error_that_names_the_signal(child: Child) -> None:
    with pytest.raises(WorkerError, match=r"died \(SIGKILL\)"):
        child.ask("die", 30)
    with pytest.raises(WorkerError, match="not running"):
        child.ask("anybody?", 5)


def test_one_that_takes_too_long_is_killed(child: Child) -> None:
    pid = child.pid
    assert pid is not None
    with pytest.raises(WorkerError, match=r"longer than 0\.2 s"):
        child.ask("hang", 0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_stops_it_from_starting_is_raised() -> None:
    child = Child(make_echo, "no start", "the worker")
    with pytest.raises(ArtifactError, match="3 bytes, not 5"):
        child.start(30)
    child.stop()


def test_a_start_that_never_ends_is_ended() -> None:
    child = Child(make_echo, "slow start", "the worker")
    with pytest.raises(WorkerError, match="longer than"):
        child.start(0.5)


PARENT = """
import sys, time
from stubs import make_echo
from proguard_edge.child import Child

if __name__ == "__main__":
    child = Child(make_echo, None, "the worker")
    child.start(30)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_it_ends_with_its_parent_even_one_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()
