"""Trial: what judging the golden texts gave; and the way to it that loads no engine here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden.json"


@dataclass(frozen=True)
class Judged:
    """outcome: the request's label, or "withheld" where its language is not read. score,
    category: of the request, and the category's id or name. ms: time that it took.

    malformed: why this is no verdict, None where it is one.
    """

    outcome: str
    score: float | None
    category: str | None
    ms: float = 0.0
    malformed: str | None = None


@dataclass(frozen=True)
class Trial:
    """Verdicts by text: at first, at once again, and from another loading on one thread.

    cached, kept: whether the prefix lay in the cache folder before, and lies there now; None where
    the engine keeps none. peak: the most bytes of memory that the process held by the first
    loading's end, None where the system does not tell.
    """

    first: dict[str, Judged]
    again: dict[str, Judged]
    alone: dict[str, Judged]
    cached: bool | None
    kept: bool | None
    load_s: float
    peak: int | None


def judge_twice(folder: Path) -> Trial:
    """See `proguard_edge.doctor.judge`: a process that crashes with it is to be the helper's."""
    from proguard_edge.doctor import judge

    return judge.judge_twice(folder)
