"""One calibration from rows to manifest: judge once, fit, measure, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proguard_edge.artifact import Artifact
from proguard_edge.artifact.format import PARTS
from proguard_edge.calibration import fit, reliability, thresholds
from proguard_edge.calibration.judged import Judged, judge_rows, labelled
from proguard_edge.errors import InputError, ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row

Track = Callable[[Sequence[Row], str], Iterable[Row]]


@dataclass(frozen=True)
class Settings:
    """What is fitted, and how.

    rates: miss rates to bound. keep_scores: leave bias and temperature. miss_cost: in false alarms.
    category_rate: None fits thresholds of categories by cost. allow_raise: these may exceed 0.5.
    threads: of the engine, 0 = all cores.
    """

    rates: tuple[float, ...] = fit.RATES
    keep_scores: bool = False
    miss_cost: float = 1.0
    per_category: bool = False
    category_rate: float | None = None
    allow_raise: bool = False
    threads: int = 0


class Run:
    """Judges the rows when it is made, fits, and writes when it is told to.

    track: sees the rows while they are judged, with a word for what is done. Raises InputError
    where no row can be judged or a part cannot be fitted; the guard's errors pass through.
    """

    def __init__(self, folder: Path, rows: Sequence[Row], settings: Settings, track: Track) -> None:
        self.settings, self.notes = settings, list[str]()
        self.categories: dict[str, str] = {}
        with fit.plain_guard(folder, settings.threads) as guard:
            self.artifact, self.own = guard.artifact, guard.artifact.calibration
            self.judged = [p for row in track(rows, "judging") for p in judge_rows(guard, [row])]
            self._check()
            self._name_categories(guard, track)
        self.first, self.second = fit.halves(self.judged)
        self.held_out = self.judged if settings.keep_scores else self.second
        self.fitted = dict(self.own)
        if not settings.keep_scores:
            costs = dict.fromkeys(PARTS, settings.miss_cost)
            self.fitted |= fit.calibrate(self.first, self.own, costs)
        self.before = fit.errors_of(self.held_out, self.own, self.own)
        self.after = fit.errors_of(self.held_out, self.own, self.fitted)
        self.bounds = fit.bounds(
            self.held_out, self.own, self.fitted, settings.rates, self.notes.append
        )
        self.thresholds: dict[str, dict[str, float]] = {}
        self.effects: dict[str, thresholds.Effect] = {}
        if settings.per_category:
            self._fit_thresholds()

    def _check(self) -> None:
        self.errors = Counter(
            type(v).__name__ for _, v in self.judged if isinstance(v, ProGuardEdgeError)
        )
        if any(labelled(self.judged, part)[0] for part in PARTS):
            return
        reasons = ", ".join(f"{n} {name}" for name, n in self.errors.items()) or "no labels"
        raise InputError(
            f"of {len(self.judged)} rows none gives a labelled score ({reasons}): give labelled "
            "rows that the artifact reads"
        )

    def _name_categories(self, guard: Guard, track: Track) -> None:
        if self.settings.per_category:
            self.categories = thresholds.named_categories(
                guard, self.judged, lambda rows: track(rows, "naming categories")
            )

    def _fit_thresholds(self) -> None:
        """By cost on the rows that scores are fitted to, by rate on the others."""
        settings = self.settings
        by_rate = settings.category_rate is not None
        for part in PARTS:
            fitted_on = self.held_out if by_rate else self.first
            found = thresholds.fit_thresholds(
                *self._named(fitted_on, part),
                miss_cost=settings.miss_cost,
                rate=settings.category_rate,
                allow_raise=settings.allow_raise,
            )
            if found:
                measured_on = self.held_out if by_rate else self.second
                self.thresholds[part] = found
                self.effects[part] = thresholds.effect(*self._named(measured_on, part), found)
        if not self.thresholds:
            self.notes.append(
                f"no category has a threshold of its own: {thresholds.MIN_ROWS} rows of one are "
                "needed, and a better threshold than 0.5"
            )

    def _named(
        self, judged: Sequence[Judged], part: str
    ) -> tuple[list[float], list[bool], list[str | None]]:
        """Scores, truth and main categories of the rows labelled in `part`."""
        own = [pair for pair in judged if labelled([pair], part)[0]]
        scores, truth = fit.rescored(own, part, self.own, self.fitted)
        return scores, truth, [self.categories.get(row.id) for row, _ in own]

    def report(self, written: Artifact | None) -> dict[str, Any]:
        """Everything that was found, as plain data. written: the artifact as it is now."""
        return {
            "artifact": {
                "folder": str(self.artifact.folder),
                "before": self.artifact.digest,
                "after": written.digest if written else None,
            },
            "rows": len(self.judged),
            "errors": dict(self.errors),
            "scores_kept": self.settings.keep_scores,
            "parts": {part: self._part(part) for part in self.before},
            "notes": self.notes,
        }

    def _part(self, part: str) -> dict[str, Any]:
        own, fitted = self.own.get(part), self.fitted.get(part)
        effect = self.effects.get(part)
        return {
            "calibration": {
                "before": asdict(own) if own else None,
                "after": asdict(fitted) if fitted else None,
            },
            "reliability": {
                "before": self.before[part].to_dict(),
                "after": self.after[part].to_dict(),
            },
            "bounds": [asdict(bound) for bound in self.bounds.get(part, ())],
            "category_thresholds": self.thresholds.get(part, {}),
            "category_effect": asdict(effect) if effect else None,
        }

    def plot(self, path: Path) -> None:
        """The reliability plot; one curve a part where the scores were kept."""
        reliability.plot(self.before, {} if self.settings.keep_scores else self.after, path)

    def write(self) -> Artifact:
        """Put what was fitted into the manifest; a signature on the old one goes, with a note."""
        settings = self.settings
        return fit.write(
            self.artifact.folder,
            None if settings.keep_scores else self.fitted,
            self.bounds,
            self.thresholds if settings.per_category else None,
            self.notes.append,
        )
