"""Labelled rows with what a guard said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.request import Request
from proguard_edge.train.rows import Row
from proguard_edge.verdict import Verdict

Judged = tuple[Row, Verdict | ProGuardEdgeError]


def judge_rows(guard: Guard, rows: Iterable[Row]) -> list[Judged]:
    """Each row with its verdict or its error."""
    rows = list(rows)
    requests = [Request(r.user, r.response, (r.image,) if r.image else ()) for r in rows]
    return list(zip(rows, guard.moderate_many(requests), strict=True))


def labelled(judged: Iterable[Judged], part: str) -> tuple[list[float], list[bool], Counter[str]]:
    """Scores and whether unsafe in truth, of rows whose part is labelled; errors of the others."""
    scores, truth = [], []
    errors: Counter[str] = Counter()
    for row, verdict in judged:
        label = getattr(row, f"{part}_label")
        if label is None:
            continue
        found = None if isinstance(verdict, ProGuardEdgeError) else getattr(verdict, part)
        if found is None:
            errors[type(verdict).__name__] += 1
            continue
        scores.append(found.score)
        truth.append(label == "unsafe")
    return scores, truth, errors
