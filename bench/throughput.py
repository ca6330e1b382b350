"""Requests a second, and how long each takes, while many come at once.

Closed loop: `clients` threads each send the next request when the last one is answered. Poisson:
requests arrive at a given rate whether or not the last ones are answered, and the time of one
counts from its arrival, its waiting included (open loop; with a closed one a slow answer would
hold back the requests that make it slow, "coordinated omission").
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from proguard_edge.bench.contenders import Contender, why
from proguard_edge.bench.intervals import quantiles
from proguard_edge.bench.machine import resident_mb
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.request import Request

SAMPLE_S = 1.0
# Texts of many lengths, under the contender's own policy.
MIXED = Scenario("mixed", user_tokens=1)


@dataclass(frozen=True)
class Load:
    """requests: how many. clients: of the closed loop, or that serve Poisson arrivals. rate: of
    arrivals a second; None = closed loop."""

    requests: int
    clients: int = 1
    rate: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.clients} clients" if self.rate is None else f"{self.rate:.2f}/s Poisson"


@dataclass
class Outcome:
    """latencies in seconds, in the order in which they ended; memory: (seconds, MB)."""

    load: Load
    seconds: float
    latencies: list[float]
    errors: Counter[str]
    memory: list[tuple[float, float]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = {
            "load": self.load.name,
            "requests": self.load.requests,
            "clients": self.load.clients,
            "rate": self.load.rate,
            "seconds": round(self.seconds, 3),
            "per_second": round(len(self.latencies) / self.seconds, 3),
            "errors": dict(self.errors),
            "memory_mb": [(round(t, 1), round(mb, 1)) for t, mb in self.memory],
        }
        if self.latencies:
            ms = [1000 * s for s in self.latencies]
            found["ms"] = {name: q.to_dict() for name, q in quantiles(ms).items()}
        return found


def drive(
    contender: Contender,
    requests: Iterator[Request],
    load: Load,
    report: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Send `load.requests` requests; an answer that is an error is counted, not timed."""
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    lock = threading.Lock()
    waiting: queue.Queue[tuple[Request, float | None] | None] = queue.Queue(
        0 if load.rate else 2 * load.clients
    )

    def serve() -> None:
        while (item := waiting.get()) is not None:
            request, arrived = item
            begin = arrived if arrived is not None else time.perf_counter()
            error = None
            try:
                contender.judge(request, MIXED)
            except ProGuardEdgeError as caught:
                error = why(caught)
            spent = time.perf_counter() - begin
            with lock:
                if error is None:
                    latencies.append(spent)
                else:
                    errors[error] += 1
                done = len(latencies) + errors.total()
            report(done)

    with _Watch() as watch:
        clients = [threading.Thread(target=serve, daemon=True) for _ in range(load.clients)]
        begin = time.perf_counter()
        for client in clients:
            client.start()
        for request, arrival in zip(requests, _arrivals(load), strict=False):
            if arrival is not None:
                time.sleep(max(0.0, begin + arrival - time.perf_counter()))
            waiting.put((request, None if arrival is None else begin + arrival))
        for _ in clients:
            waiting.put(None)
        for client in clients:
            client.join()
        seconds = time.perf_counter() - begin
    if len(latencies) + errors.total() < load.requests:
        raise RuntimeError("a client died; see its traceback")
    return Outcome(load, seconds, latencies, errors, watch.samples)


def _arrivals(load: Load) -> Iterator[float | None]:
    """Seconds from the beginning at which each request arrives; None: when a client is free."""
    rng, at = random.Random(load.seed), 0.0
    for _ in range(load.requests):
        if load.rate is None:
            yield None
        else:
            at += rng.expovariate(load.rate)
            yield at


def endless(requests: Sequence[Request]) -> Iterator[Request]:
    """The requests over and over."""
    while True:
        yield from requests


class _Watch:
    """Samples this process's memory once a second."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.perf_counter()
        while True:
            if (now := resident_mb()) is not None:
                self.samples.append((time.perf_counter() - begin, now))
            if self._stop.wait(SAMPLE_S):
                return
