"""Counts over the lines of a scan, of any number: nothing here grows with the rows but names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proguard_edge.batch import label_of
from proguard_edge.scan.lines import score_of

SCORE_BINS = 20
# Times are kept in bins of equal ratio: a quantile is right to a twentieth.
_BINS_A_DECADE = 24


@dataclass
class Tally:
    """labels: "safe", "unsafe", "error". modalities, sources: (name, label). categories: (id, name)
    of unsafe rows in the policy; unseen: names of those that it lacks. scores: rows by score, from
    0 to 1 in `SCORE_BINS`. times: rows by the bin of their milliseconds."""

    labels: Counter[str] = field(default_factory=Counter)
    modalities: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    categories: Counter[tuple[str, str]] = field(default_factory=Counter)
    unseen: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    times: Counter[int] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        """Lines that were added."""
        return self.labels.total()

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line of the output. Raises KeyError, TypeError for anything else."""
        label = label_of(line)
        self.labels[label] += 1
        self.modalities[line["modality"] or "unknown", label] += 1
        self.sources[line["source"], label] += 1
        verdict = line.get("verdict")
        if verdict is None:
            self.errors[line["error"]["type"]] += 1
            return
        score = score_of(verdict)
        self.scores[min(int(score * SCORE_BINS), SCORE_BINS - 1)] += 1
        if (ms := verdict["timings_ms"].get("total", 0.0)) > 0:
            self.times[math.floor(_BINS_A_DECADE * math.log10(ms))] += 1
        if label == "unsafe" and (risk := verdict["category"]) is not None:
            if risk["in_policy"]:
                self.categories[risk["id"], risk["name"]] += 1
            else:
                self.unseen[risk["name"]] += 1

    def add_all(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Count many."""
        for line in lines:
            self.add(line)

    def quantile_ms(self, share: float) -> float | None:
        """Milliseconds within which this share of the verdicts was reached; None without any."""
        left = share * self.times.total()
        for bin_, count in sorted(self.times.items()):
            left -= count
            if left <= 0:
                return _edge(bin_ + 0.5)
        return None

    def time_bins(self) -> list[tuple[float, float, int]]:
        """(from ms, to ms, rows) of every bin between the shortest and the longest."""
        if not self.times:
            return []
        bins = range(min(self.times), max(self.times) + 1)
        return [(_edge(bin_), _edge(bin_ + 1), self.times[bin_]) for bin_ in bins]


def _edge(bin_: float) -> float:
    return float(10 ** (bin_ / _BINS_A_DECADE))
