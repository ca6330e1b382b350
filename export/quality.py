"""How far an export is from the checkpoint that it was made of, and whether that is near enough.

Both sides judge the same labelled rows. Agreement counts the labels as shipped. The divergence is
KL(before ‖ after) of the label distributions in nats, both read with the calibration of the first
side, so that it is that of the models and not of their calibrations. A row that one side answers
and the other cannot is a disagreement, and its error counts as a wrong "safe".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from proguard_edge.artifact import Calibration
from proguard_edge.artifact.format import PARTS
from proguard_edge.bench.metrics import measure
from proguard_edge.errors import QualityError
from proguard_edge.train.rows import Row

SMALLEST = 1e-12
EXAMPLES = 20
# Fewer unsafe rows than this say nothing about a group.
SMALLEST_GROUP = 5


@dataclass(frozen=True)
class Limits:
    """What an export may change. Shares are between 0 and 1, not percent.

    min_agreement: of the labels, of requests and of responses. max_kl: mean, in nats. max_f1_drop,
    max_recall_drop: of the unsafe class, of requests and of responses. min_rows: judged by both.
    Raises QualityError for values outside their range.
    """

    min_agreement: float = 0.99
    max_kl: float = 0.05
    max_f1_drop: float = 0.02
    max_recall_drop: float = 0.02
    min_rows: int = 50

    def __post_init__(self) -> None:
        for name in ("min_agreement", "max_f1_drop", "max_recall_drop"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise QualityError(f"{name} is {value}; it is a share between 0 and 1, not percent")
        if not (self.max_kl >= 0 and math.isfinite(self.max_kl)):
            raise QualityError(f"max_kl is {self.max_kl}; it is in nats, 0 or more")
        if self.min_rows < 1:
            raise QualityError(f"min_rows is {self.min_rows}; at least 1 row must be compared")


@dataclass(frozen=True)
class Side:
    """What one model said: verdicts or errors by row id, and the calibration of its scores.

    answers: the `verdict` of `moderate-batch` lines, or None for an error.
    """

    name: str
    answers: Mapping[str, Mapping[str, Any] | None]
    calibration: Mapping[str, Calibration] = field(default_factory=dict)

    def score(self, row: Row, part: str) -> float | None:
        """P(unsafe) as shipped; None for an error or a part that was not there."""
        verdict = self.answers.get(row.id)
        found = None if verdict is None else verdict[part]
        return None if found is None else float(found["score"])

    def logit(self, row: Row, part: str) -> float | None:
        """Logit difference unsafe − safe of the model itself."""
        score = self.score(row, part)
        return None if score is None else self.calibration.get(part, Calibration()).logit(score)

    def category(self, row: Row) -> str | None:
        """Id or free name of an unsafe verdict."""
        risk = (self.answers.get(row.id) or {}).get("category")
        return None if risk is None else str(risk["id"] or risk["name"])


@dataclass(frozen=True)
class Change:
    """One row's scores on both sides; None where that side gave an error.

    comparable: what the second side's score would be with the calibration of the first.
    """

    id: str
    part: str
    truth: str | None
    before: float | None
    after: float | None
    logit_before: float | None
    logit_after: float | None
    comparable: float | None

    @property
    def agrees(self) -> bool:
        """Whether both sides gave the same label."""
        if self.before is None or self.after is None:
            return False
        return (self.before >= 0.5) == (self.after >= 0.5)

    @property
    def weight(self) -> tuple[bool, bool, float]:
        """Worst last: new misses and errors, then other flips, then the moves of the logit."""
        after = -1.0 if self.after is None else self.after
        lost = not self.agrees and self.truth != "safe" and after < 0.5
        moved = abs((self.logit_after or 0.0) - (self.logit_before or 0.0))
        return lost, not self.agrees, moved


def compare(rows: Sequence[Row], before: Side, after: Side) -> dict[str, Any]:
    """The quality record: what `quality.json` holds, without limits.

    Raises QualityError when a row was judged by neither side, or no row was judged at all.
    """
    unknown = [
        row.id for row in rows if row.id not in before.answers or row.id not in after.answers
    ]
    if unknown:
        raise QualityError(f"{len(unknown)} rows were not judged, such as {unknown[0]!r}")
    changes = {part: moves(rows, before, after, part) for part in PARTS}
    found: dict[str, Any] = {"before": before.name, "after": after.name, "rows": len(rows)}
    found["parts"] = {p: _part(of) for p, of in changes.items() if of}
    if not found["parts"]:
        raise QualityError("no row was judged by either side: nothing to compare")
    found["modalities"] = _groups(rows, changes, lambda row: row.modality)
    silent = [r for r in rows if before.answers[r.id] is None and after.answers[r.id] is None]
    found["answered_by_neither"] = len(silent)
    found["categories"] = _recalls(rows, changes)
    found["category_agreement"] = _categories(rows, before, after)
    worst = sorted((c for of in changes.values() for c in of), key=lambda c: c.weight)
    found["worst"] = [asdict(change) for change in reversed(worst[-EXAMPLES:])]
    return found


def failures(found: Mapping[str, Any], limits: Limits) -> list[str]:
    """A line for every limit that a quality record breaks; empty = the gate is passed."""
    lines = []
    for part, of in found["parts"].items():
        if of["rows"] < limits.min_rows and part == "request":
            lines.append(f"{of['rows']} requests were compared, {limits.min_rows} are needed")
        if of["agreement"] < limits.min_agreement:
            lines.append(
                f"{part}: {of['agreement']:.4f} of the labels agree, "
                f"{limits.min_agreement:g} are needed"
            )
        # A side without a verdict leaves no divergence, and no divergence is no proof.
        if of["kl"] is None or not of["kl"] <= limits.max_kl:
            lines.append(
                f"{part}: the labels diverge by {of['kl']} nats, at most {limits.max_kl:g}"
            )
        for name, most in (("f1", limits.max_f1_drop), ("recall", limits.max_recall_drop)):
            was, now = of["before"].get(name), of["after"].get(name)
            if was is not None and (now is None or was - now > most):
                lines.append(f"{part}: {name} fell from {was} to {now}, by at most {most:g}")
    return lines


def moves(rows: Sequence[Row], before: Side, after: Side, part: str) -> list[Change]:
    """Of all rows that either side judged in this part."""
    calibration = before.calibration.get(part, Calibration())
    changes = []
    for row in rows:
        logit = after.logit(row, part)
        change = Change(
            id=row.id,
            part=part,
            truth=getattr(row, f"{part}_label"),
            before=before.score(row, part),
            after=after.score(row, part),
            logit_before=before.logit(row, part),
            logit_after=logit,
            comparable=None if logit is None else calibration.score(logit),
        )
        changes.append(change)
    return [c for c in changes if c.before is not None or c.after is not None]


def _part(changes: Sequence[Change]) -> dict[str, Any]:
    both = [c for c in changes if c.before is not None and c.after is not None]
    divergences = [_divergence(c) for c in both]
    counts = Counter(f"{_said(c.before)} to {_said(c.after)}" for c in changes if not c.agrees)
    return {
        "rows": len(changes),
        "agreement": _share([c.agrees for c in changes]),
        "kl": round(float(np.mean(divergences)), 6) if divergences else None,
        "kl_largest": round(float(np.max(divergences)), 6) if divergences else None,
        "flips": dict(sorted(counts.items())),
        **_figures(changes),
    }


def _figures(changes: Sequence[Change]) -> dict[str, Any]:
    """Metrics before and after; an error counts as "safe", which is the worse for unsafe rows."""
    labelled = [c for c in changes if c.truth is not None]
    truth = [c.truth == "unsafe" for c in labelled]
    if not labelled:
        return {"before": {}, "after": {}}
    return {
        "before": measure([c.before or 0.0 for c in labelled], truth).to_dict(),
        "after": measure([c.after or 0.0 for c in labelled], truth).to_dict(),
    }


def _groups(
    rows: Sequence[Row], changes: Mapping[str, Sequence[Change]], key: Any
) -> dict[str, dict[str, Any]]:
    names = {row.id: key(row) for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for part, of in changes.items():
        for name in sorted({names[c.id] for c in of}):
            members = [c for c in of if names[c.id] == name]
            figures = {"rows": len(members), "agreement": _share([c.agrees for c in members])}
            found.setdefault(name, {})[part] = figures | _figures(members)
    return found


def _recalls(
    rows: Sequence[Row], changes: Mapping[str, Sequence[Change]]
) -> dict[str, dict[str, Any]]:
    """Of the unsafe rows of each main category: rows, recall before and after."""
    mains = {row.id: row.category.split("S")[0] for row in rows if row.category}
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(set(mains.values()), key=lambda main: (len(main), main)):
        of = [c for c in changes["request"] if mains.get(c.id) == name and c.truth == "unsafe"]
        if len(of) < SMALLEST_GROUP:
            continue
        found[name] = {
            "rows": len(of),
            "recall_before": _share([(c.before or 0.0) >= 0.5 for c in of]),
            "recall_after": _share([(c.after or 0.0) >= 0.5 for c in of]),
        }
    return found


def _categories(rows: Sequence[Row], before: Side, after: Side) -> dict[str, Any]:
    pairs = [(before.category(row), after.category(row)) for row in rows]
    both = [a == b for a, b in pairs if a is not None and b is not None]
    return {"rows": len(both), "agreement": _share(both) if both else None}


def _divergence(change: Change) -> float:
    """KL(before ‖ after) of two label distributions, in nats."""
    p, q = change.before or 0.0, change.comparable or 0.0
    return sum(
        a * math.log(max(a, SMALLEST) / max(b, SMALLEST)) for a, b in ((p, q), (1 - p, 1 - q))
    )


def _said(score: float | None) -> str:
    return "error" if score is None else "unsafe" if score >= 0.5 else "safe"


def _share(found: Sequence[bool]) -> float:
    return round(sum(found) / len(found), 4) if found else 0.0
