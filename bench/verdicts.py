"""Verdicts on labelled rows, kept as they are given: a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from proguard_edge.batch import run_batch
from proguard_edge.errors import InputError
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.template import Mode
from proguard_edge.train.rows import Row


def kept_verdicts(
    guard: Guard,
    rows: Sequence[Row],
    work: Path,
    report: Callable[[int], None] = lambda _: None,
    *,
    policy: Policy | None = None,
    mode: Mode = "verdict",
) -> dict[str, dict[str, Any]]:
    """`moderate-batch` lines, with "verdict" or "error", by row id; judged ones lie in `work`.

    Raises InputError when rows share an id, or files of `work` cannot be written.
    """
    source = rows_file(rows, work)
    used = (policy or guard.policy).digest()[:8]
    bound = "" if guard.artifact.max_miss_rate is None else f"-{guard.artifact.max_miss_rate}"
    name = f"{guard.artifact.digest[:16]}-{guard.engine.kind}-{used}-{mode}{bound}"
    eyes = hashlib.sha256(guard.eyes.identity.encode()).hexdigest()[:6]
    output = work / f"verdicts-{name}-{eyes}-{source.stem}.jsonl"
    for number, _ in enumerate(run_batch(guard, source, output, policy=policy, mode=mode), 1):
        report(number)
    lines = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line for line in lines}


def rows_file(rows: Sequence[Row], work: Path) -> Path:
    """The rows as `moderate-batch` reads them, images by absolute path. Raises InputError."""
    if len({row.id for row in rows}) != len(rows):
        raise InputError("the rows share ids: every row needs one of its own")
    lines = [
        json.dumps(
            {
                "id": row.id,
                "user": row.user,
                "response": row.response,
                "image": None if row.image is None else str(row.image.absolute()),
            }
        )
        for row in rows
    ]
    text = "\n".join(lines) + "\n"
    path = work / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
    return path
