"""Load of many requests, on a contender whose time is known."""

from __future__ import annotations

import threading
import time
from itertools import count

import pytest

from proguard_edge.bench.contenders import Answer
from proguard_edge.bench.report import plot, table
from proguard_edge.bench.throughput import Load, drive
from proguard_edge.errors import InputError
from proguard_edge.request import Request


class OneAtATime:
    """Takes turns, as an engine does."""

    name = "slow"

    def __init__(self, seconds):
        self.seconds, self.lock, self.seen = seconds, threading.Lock(), []

    def judge(self, request, _mode):
        with self.lock:
            self.seen.append(request.user)
            if request.user.endswith("3"):
                raise InputError("no threes")
            time.sleep(self.seconds)
        return Answer("safe")


def requests():
    return (Request(f"text {n}") for n in count(10))


def test_a_closed_loop_sends_each_request_once_and_counts_errors_apart():
    slow = OneAtATime(0.002)
    found = drive(slow, requests(), Load(40, clients=4))
    assert sorted(slow.seen) == [f"text {n}" for n in range(10, 50)]
    assert dict(found.errors) == {"InputError: no threes": 4}
    assert len(found.latencies) == 36
    summary = found.summary()
    assert summary["per_second"] < 1 / 0.002
    # Four clients share one engine, and each waits for the others (Little's law).
    assert sum(found.latencies) / len(found.latencies) > 2 * 0.002


def test_waiting_counts_from_the_arrival():
    # Twice as many arrive as can be answered: the queue grows, and so does the time of each.
    slow = OneAtATime(0.01)
    found = drive(slow, (Request(f"t{n}0") for n in count()), Load(60, rate=200.0, seed=1))
    assert found.latencies[-1] > 10 * found.latencies[0]
    calm = drive(OneAtATime(0.001), (Request(f"t{n}0") for n in count()), Load(60, rate=100.0))
    assert calm.seconds > 0.3
    assert sorted(calm.latencies)[30] < 0.01


def test_a_client_that_dies_of_a_bug_is_an_error_not_a_figure():
    class Broken(OneAtATime):
        def judge(self, _request, _mode):
            raise TypeError("a bug")

    threading.excepthook, kept = lambda _: None, threading.excepthook
    try:
        with pytest.raises(RuntimeError, match="client died"):
            drive(Broken(0), requests(), Load(3, clients=3))
    finally:
        threading.excepthook = kept


def test_the_table_and_the_plot(tmp_path):
    slow = OneAtATime(0.001)
    loads = [Load(20, 2), Load(20, rate=200.0)]
    report = {
        "kind": "throughput",
        "results": [drive(slow, requests(), load).summary() for load in loads],
    }
    head, rows = table(report)
    assert [row[0] for row in rows] == ["2 clients", "200.00/s Poisson"]
    assert all(len(row) == len(head) for row in rows)
    plot(report, tmp_path / "r.png")
    assert (tmp_path / "r.png").is_file()
