"""Time to a verdict, side by side: every round asks every contender the same fresh request in turn.

The order turns round from one round to the next, and a fixed piece of work is timed in every round,
so that a machine that became slower can be told from a program that did.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from proguard_edge.bench.ceilings import best_of
from proguard_edge.bench.contenders import Answer, Contender, why
from proguard_edge.bench.intervals import paired_ratio, quantile, quantiles
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.engine.blas import one_blas_thread
from proguard_edge.errors import ProGuardEdgeError

LEAST_ROUNDS = 3
REFERENCE_SIZE = 384
# Idle threads of the last contender go on spinning for some milliseconds, on cores of the next.
SETTLE_SECONDS = 0.1


@dataclass(frozen=True)
class Settings:
    """rounds: at most. seconds: no new round begins after it, but for the first three. warmup:
    rounds that are not counted."""

    rounds: int = 30
    seconds: float = 100.0
    warmup: int = 1
    seed: int = 0


@dataclass
class Series:
    """One contender in one scenario, round by round."""

    contender: str
    scenario: str
    seconds: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def label_seconds(self) -> list[float]:
        """To the request's label; the whole answer where nothing else is known."""
        return [
            whole if answer.label_ms is None else answer.label_ms / 1000
            for whole, answer in zip(self.seconds, self.answers, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Milliseconds: quantiles with intervals, medians of the phases, every round."""
        found: dict[str, Any] = {"contender": self.contender, "scenario": self.scenario}
        found["runs"] = len(self.seconds)
        found["errors"] = dict(self.errors)
        if not self.seconds:
            return found
        ms = [1000 * s for s in self.seconds]
        found["label_ms"] = quantile([1000 * s for s in self.label_seconds], 0.5).to_dict()
        found["ms"] = {name: q.to_dict() for name, q in quantiles(ms).items()}
        phases = sorted({name for answer in self.answers for name in answer.phases})
        found["phases_ms"] = {
            name: round(float(np.median([a.phases.get(name, 0.0) for a in self.answers])), 3)
            for name in phases
        }
        names = sorted({name for answer in self.answers for name in answer.tokens})
        found["tokens"] = {
            name: float(np.median([a.tokens.get(name, 0) for a in self.answers])) for name in names
        }
        found["labels"] = dict(Counter(answer.label for answer in self.answers))
        found["samples_ms"] = [round(value, 3) for value in ms]
        return found


def run(
    contenders: Sequence[Contender],
    scenarios: Sequence[Scenario],
    settings: Settings,
    count: Callable[[str], int],
    report: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[list[Series], list[float]]:
    """A series of each contender in each scenario, and seconds of the reference work.

    count: tokens of a text. A scenario that a contender refuses, or errors in, is left out with its
    reason in `Series.errors`.
    """
    series = {(c.name, s.name): Series(c.name, s.name) for c in contenders for s in scenarios}
    for contender in contenders:
        for scenario in scenarios:
            if reason := contender.refuses(scenario):
                series[contender.name, scenario.name].errors[reason] += 1
    work, reference, begin = Reference(), [], time.perf_counter()
    for number in range(-settings.warmup, settings.rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - begin > settings.seconds:
            break
        spent = work()
        for scenario in scenarios:
            request = scenario.request(number, count, settings.seed)
            order = contenders if number % 4 < 2 else contenders[::-1]
            for contender in order:
                one = series[contender.name, scenario.name]
                if not one.errors:
                    _time(one, contender, scenario, request, keep=number >= 0)
        if number >= 0:
            reference.append(spent)
            report(number + 1, settings.rounds)
    return list(series.values()), reference


class Reference:
    """A piece of work that is always the same: its time tells how fast the machine is just now.

    On one thread: others would spin on, into what is timed next.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._a, self._b = (
            rng.random((REFERENCE_SIZE, REFERENCE_SIZE), np.float32) for _ in range(2)
        )

    def __call__(self) -> float:
        """Seconds."""
        with one_blas_thread():
            return best_of(lambda: self._a @ self._b)


def _time(one: Series, contender: Contender, scenario: Scenario, request: Any, keep: bool) -> None:
    time.sleep(SETTLE_SECONDS)
    begin = time.perf_counter()
    try:
        answer = contender.judge(request, scenario)
    except ProGuardEdgeError as error:
        one.errors[why(error)] += 1
        return
    if keep:
        one.seconds.append(time.perf_counter() - begin)
        one.answers.append(answer)


def ratios(series: Sequence[Series], base: str) -> list[dict[str, Any]]:
    """Every other contender over `base` by scenario: time, and agreement of the labels."""
    firsts = {one.scenario: one for one in series if one.contender == base}
    found = []
    for one in series:
        first = firsts[one.scenario]
        rounds = min(len(one.seconds), len(first.seconds))
        if one.contender == base or not rounds or one.errors or first.errors:
            continue
        pairs = zip(one.answers, first.answers, strict=True)
        found.append(
            {
                "scenario": one.scenario,
                "contender": one.contender,
                "base": base,
                "ratio": paired_ratio(one.seconds, first.seconds).to_dict(),
                "label_ratio": paired_ratio(one.label_seconds, first.label_seconds).to_dict(),
                "agreement": round(sum(a.label == b.label for a, b in pairs) / rounds, 4),
            }
        )
    return found


def reference_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """Median and interval of the reference work, in milliseconds."""
    return quantile([1000 * s for s in seconds], 0.5).to_dict(4)
