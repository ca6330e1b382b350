"""Scans without Ray: the same worker, in this process, shard after shard."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.scan.plan import Judging, make_plan
from proguard_edge.scan.run import Scan
from proguard_edge.scan.store import Store
from proguard_edge.scan.worker import Task, Worker

__all__ = ["Task"]

JUDGING = Judging("a" * 64, "onnx", "b" * 64, "verdict", None, "image unread")


def task_of(artifact: Path, policy: Policy | None = None, **loading: Any) -> Task:
    """What workers of that artifact are given."""
    loading = {"artifact": artifact, "ocr": False, **loading}
    with Guard.load(**loading, threads=1) as guard:
        return Task(loading, policy, Judging.of(guard, policy, "verdict"), 1)


def begin(task: Task, out: Path, *sources: Path, **options: Any) -> Scan:
    """A scan that is begun, or gone on with; options of `make_plan`, `output` "jsonl"."""
    store = Store(out)
    options = {"output": "jsonl", "begun": store.begun(), **options}
    return Scan(store, make_plan(sources, task.judging, **options))


def judge(scan: Scan, task: Task, shards: int | None = None) -> Scan:
    """Judge so many of the shards that are left, or all; the scan."""
    worker = Worker(task)
    for shard in scan.todo[:shards]:
        scan.finished(worker.judge(shard))
    worker.close()
    return scan


def lines_of(scan: Scan) -> list[dict[str, Any]]:
    """All lines of the output in the order of the input, without what differs between runs."""
    numbers = sorted(scan.store.done(scan.plan.output))
    found = [line for n in numbers for line in scan.store.read_shard(n, scan.plan.output)]
    for line in found:
        line.get("verdict", {}).pop("timings_ms", None)
    return found


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSONL; a str is a raw line."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def line(label: str = "safe", **changes: Any) -> dict[str, Any]:
    """A line of the output with a verdict, or an error for the label "error"."""
    found: dict[str, Any] = {"id": "a", "source": "/rows.jsonl", "row": 0, "modality": "text"}
    if label == "error":
        return found | {"error": {"type": "TextError", "message": "all of it is empty"}} | changes
    unsafe = label == "unsafe"
    risk = {"id": "C1", "name": "Copyright", "in_policy": True, "score": 0.5}
    found["verdict"] = {
        "request": {"label": label, "score": 0.9 if unsafe else 0.1},
        "response": None,
        "category": (risk | changes.pop("risk", {})) if unsafe else None,
        "timings_ms": {"total": 100.0},
    }
    return found | changes
