"""Metrics: counters for Prometheus, and the recent past for the page."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client import Counter as Count

from proguard_edge.verdict import Verdict

if TYPE_CHECKING:
    from proguard_edge.serve.pool import Answer, Pool

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60)
KEPT = 200
MAX_NAMES = 5000
OTHERS = "others"


class Metrics:
    """What the server counts. Names begin with `proguard_edge_`; times are seconds."""

    def __init__(self, pool: Pool) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        prefix = "proguard_edge_"
        self._verdicts = Count(
            prefix + "verdicts", "Verdicts given.", ("label", "category"), registry=registry
        )
        self._errors = Count(
            prefix + "errors", "Requests without a verdict.", ("type",), registry=registry
        )
        self._total = Histogram(
            prefix + "seconds",
            "From arrival to verdict.",
            registry=registry,
            buckets=SECONDS,
        )
        self._phases = Histogram(
            prefix + "phase_seconds",
            "Of one verdict: queue, and the guard's phases.",
            ("phase",),
            registry=registry,
            buckets=SECONDS,
        )
        self._gauges(registry, prefix, pool)

    def _gauges(self, registry: CollectorRegistry, prefix: str, pool: Pool) -> None:
        for name, what, read in (
            ("queue", "Requests that wait.", lambda: pool.waiting),
            ("workers_ready", "Engine processes that can judge.", lambda: pool.ready),
            ("worker_restarts", "Since the server began.", lambda: pool.restarts),
        ):
            Gauge(prefix + name, what, registry=registry).set_function(read)

    def verdict(self, verdict: Verdict, answer: Answer, seconds: float, own: bool) -> None:
        """Count one verdict. own: by a policy of the server's, whose ids are few."""
        category = verdict.category
        named = (category.id or "out of policy") if category is not None else "none"
        if category is not None and not own:
            named = "of a policy in the request"
        self._verdicts.labels("unsafe" if verdict.unsafe else "safe", named).inc()
        self._total.observe(seconds)
        self._phases.labels("queue").observe(answer.waited_s)
        for phase, ms in verdict.timings_ms.items():
            self._phases.labels(phase).observe(ms / 1000)

    def error(self, kind: str) -> None:
        """Count one request that got no verdict."""
        self._errors.labels(kind).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class Recent:
    """The last verdicts without their content, and every unseen risk that was named."""

    def __init__(self) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self.unseen: Counter[str] = Counter()
        self.since = time.time()
        self.verdicts = 0
        self.errors = 0

    def verdict(self, request_id: str, verdict: Verdict, seconds: float) -> None:
        """Keep one verdict."""
        self.verdicts += 1
        self._seconds.append(seconds)
        risk = verdict.category
        if risk is not None and not risk.in_policy:
            room = len(self.unseen) < MAX_NAMES
            self.unseen[risk.name if risk.name in self.unseen or room else OTHERS] += 1
        self._lines.append(
            {
                "id": request_id,
                "time": round(time.time(), 3),
                "label": "unsafe" if verdict.unsafe else "safe",
                "score": verdict.score,
                "category": risk.name if risk else None,
                "category_id": risk.id if risk else None,
                "evaluated": list(verdict.evaluated),
                "seconds": round(seconds, 4),
            }
        )

    def error(self, request_id: str, kind: str) -> None:
        """Keep one request that got no verdict."""
        self.errors += 1
        self._lines.append({"id": request_id, "time": round(time.time(), 3), "error": kind})

    def lines(self) -> list[dict[str, Any]]:
        """The newest first."""
        return list(reversed(self._lines))

    def quantile(self, share: float) -> float | None:
        """Of the seconds of the last verdicts, by nearest rank."""
        ordered = sorted(self._seconds)
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
