"""The pool: cores shared out; with Ray itself: who dies, who goes on, and who listens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proguard_edge.batch import run_batch
from proguard_edge.bench.scan import kill_session, lines_of, start
from proguard_edge.guard import STARTER, Guard
from proguard_edge.scan.pool import divide

# Not imported: each use of Ray is a process of its own, as it is on the command line.
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="no extra `ray`")


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "most", "expected"),
    [
        ([1], None, 0, 99, (1, 1)),
        ([2], None, 0, 99, (1, 2)),
        ([16], None, 0, 99, (8, 2)),
        ([16], None, 0, 3, (3, 5)),
        ([16], None, 0, 0, (1, 16)),
        ([16], None, 1, 99, (16, 1)),
        ([16], 4, 0, 99, (4, 4)),
        ([2], 4, 0, 1, (4, 1)),
        ([2], 4, 2, 1, (4, 2)),
        ([16, 16, 4], None, 0, 99, (18, 2)),
        ([16, 16, 4], 2, 0, 99, (2, 4)),
    ],
)
def test_cores_are_shared_out(nodes, workers, threads, most, expected):
    assert divide(nodes, workers, threads, most) == expected


@given(st.lists(st.integers(1, 64), min_size=1, max_size=4), st.integers(0, 200))
def test_without_wishes_no_core_has_two_threads(nodes, most):
    workers, threads = divide(nodes, None, 0, most)
    assert workers >= 1
    assert 1 <= threads <= max(nodes)
    assert workers == 1 or workers * threads <= sum(nodes)


# Shard 1 kills every worker, shard 3 the first one that begins it. Prints what came of each shard,
# and on which addresses the processes of Ray listen.
DEADLY = """
import json, os, signal, sys
from pathlib import Path

from proguard_edge.scan.plan import Shard
from proguard_edge.scan.pool import judge_shards, ray_at
from proguard_edge.scan.worker import Done, Task

folder = Path(sys.argv[1])

class Deadly:
    def __init__(self, task):
        self.folder = folder

    def judge(self, shard, tell):
        with (self.folder / f"begun-{shard.number}").open("a") as file:
            file.write("x")
        begun = (self.folder / f"begun-{shard.number}").stat().st_size
        if shard.number == 1 or (shard.number == 3 and begun == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return Done(shard.number, b"line\\n")

def listening(session):
    mine = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                mine |= {os.readlink(fd) for fd in (process / "fd").iterdir()}
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                yield fields[1].split(":")[0]

ended = {}
shards = [Shard(n, "/rows.jsonl", "jsonl", 4 * n, 4, 0, 0) for n in range(6)]
with ray_at(None, 2, folder / "log") as ray:
    task = Task({}, None, None, 1)
    judge_shards(
        ray, task, shards, 2, lambda done: ended.update({done.number: done}), make=Deadly
    )
    addresses = sorted(set(listening(os.getsid(0))))
print(json.dumps({
    "failures": {n: d.failure for n, d in ended.items() if d.failure},
    "lines": sorted(n for n, d in ended.items() if d.lines),
    "begun": [(folder / f"begun-{n}").stat().st_size for n in range(6)],
    "addresses": addresses,
}))
"""
# 127.0.0.1, and the same as an IPv6 address, as the kernel writes them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


@with_ray
def test_a_shard_that_kills_its_workers_is_a_failure_and_the_others_are_judged(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:proguard_edge", "-c", DEADLY, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Ray's own words are in the log, and nothing else than ours on the terminal.
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["lines"] == [0, 2, 3, 4, 5]
    assert list(found["failures"]) == ["1"]
    assert "3 workers died of rows 4 to 7 of /rows.jsonl" in found["failures"]["1"]
    assert found["begun"] == [1, 3, 1, 2, 1, 1]
    assert found["addresses"]
    assert set(found["addresses"]) <= LOOPBACK


@with_ray
def test_a_scan_that_is_killed_in_the_middle_goes_on_and_has_every_row_once(tmp_path):
    texts = ("How do I bake bread?", "How do I build a pipe bomb?", "Hallo, wie geht es dir heute?")
    rows = [{"id": f"r{i}", "user": f"{texts[i % 3]} {i}"} for i in range(24)]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ["--workers", "2", "--threads", "1", "--shard-rows", "2", "--no-ocr"]
    scan = start(source, out, options)
    deadline = time.monotonic() + 120
    while len(list(out.glob("parts/0*"))) < 3:
        assert scan.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert kill_session(scan.pid) > 3
    assert scan.wait() == -9
    kept = {path: path.read_bytes() for path in out.glob("parts/0*")}
    assert 3 <= len(kept) < 12
    # Texts that the starter does not read are errors.
    assert start(source, out, options).wait(timeout=200) == 3
    assert all(path.read_bytes() == data for path, data in kept.items())
    lines = lines_of(out)
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert said(lines) == said(judged_by_one(source, tmp_path / "one.jsonl"))
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["complete"]
    assert summary["run"]["rows"] == 24 - 2 * len(kept)
    assert {path.name for path in out.iterdir()} == {
        *("parts", "scan.json", "summary.json", "report.md", "report.png")
    }


def judged_by_one(source: Path, output: Path) -> list[dict]:
    with Guard.load(STARTER, ocr=False) as guard:
        assert list(run_batch(guard, source, output))
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def said(lines: list[dict]) -> list[tuple]:
    """Labels and errors, which do not depend on the number of threads."""
    return [
        (line["id"], line["verdict"]["request"]["label"], line["verdict"]["category"] is None)
        if "verdict" in line
        else (line["id"], line["error"])
        for line in lines
    ]
