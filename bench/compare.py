"""Whether one report is slower than another, for a pipeline that should stop then.

Scenario by scenario, times are divided by the reference work that was timed beside them, so that a
machine that is slower today is not taken for a slower program. Reports of one seed asked the same
requests in the same rounds and are compared round by round; others by their medians, which takes
far more rounds, because a verdict with a category takes longer than one without. A scenario counts
as slower when the lower end of its ratio's interval lies above the threshold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.bench.intervals import Estimate, quantile
from proguard_edge.errors import InputError

FORMAT = "proguard-edge-bench/1"
DRAWS = 4000
# Of the machine block, what must be equal for two reports to be comparable.
SAME = ("cpu", "cores", "flags", "gpus")


@dataclass(frozen=True)
class Change:
    """One scenario of one contender, new over old; slower: beyond the threshold, surely."""

    scenario: str
    contender: str
    ratio: Estimate
    slower: bool
    faster: bool


def read_report(path: Path) -> dict[str, Any]:
    """Raises InputError: unreadable, or no report of `bench latency`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path}: not a report of `proguard-edge bench`")
    if found.get("kind") != "latency":
        raise InputError(f"{path}: a report of {found.get('kind')}; compare those of latency")
    return found


def other_machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the machines of two reports, and makes their times incomparable."""
    a, b = old["machine"], new["machine"]
    found = [
        f"{name}: {a.get(name)} and {b.get(name)}" for name in SAME if a.get(name) != b.get(name)
    ]
    threads = [r["settings"].get("threads") for r in (old, new)]
    return (
        found if threads[0] == threads[1] else [*found, f"threads: {threads[0]} and {threads[1]}"]
    )


def compare(old: Mapping[str, Any], new: Mapping[str, Any], threshold: float = 0.1) -> list[Change]:
    """Changes of every scenario that both reports timed, of the contender of the same name.

    threshold: a share, 0.1 = 10 % slower. Raises InputError when they have none in common.
    """
    before = {(r["contender"], r["scenario"]): r for r in old["results"] if "ms" in r}
    found = []
    for one in new["results"]:
        first = before.get((one["contender"], one["scenario"]))
        if first is None or "ms" not in one:
            continue
        pair = _relative(first, old), _relative(one, new)
        ratio = _paired(*pair) if _same_requests((old, first), (new, one)) else _ratio(*pair)
        low, high = ratio.low or ratio.value, ratio.high or ratio.value
        slower, faster = low > 1 + threshold, high < 1 / (1 + threshold)
        found.append(Change(one["scenario"], one["contender"], ratio, slower, faster))
    if not found:
        raise InputError("the reports have no scenario in common")
    return found


def _relative(result: Mapping[str, Any], report: Mapping[str, Any]) -> Sequence[float]:
    unit = report["reference_ms"]["value"]
    return [ms / unit for ms in result["samples_ms"]]


def _same_requests(*of: tuple[Mapping[str, Any], Mapping[str, Any]]) -> bool:
    """Whether round i of both results asked the same."""
    seeds = {report["settings"].get("seed") for report, _ in of}
    scenarios = {report["settings"].get("scenarios") for report, _ in of}
    tokens = {str(result.get("tokens", {}).get("content")) for _, result in of}
    return all(map(_once, (seeds, scenarios, tokens))) and not any(r["errors"] for _, r in of)


def _once(values: set[Any]) -> bool:
    return len(values) == 1 and None not in values


def _paired(old: Sequence[float], new: Sequence[float]) -> Estimate:
    """Median of the ratios round by round, with its interval of 99 %; of fewer than eight rounds
    the smallest and the largest, which hold it less surely."""
    ratios = [b / a for a, b in zip(old, new, strict=False)]
    found = quantile(ratios, 0.5, 0.99)
    return found if found.low is not None else Estimate(found.value, min(ratios), max(ratios))


def _ratio(old: Sequence[float], new: Sequence[float]) -> Estimate:
    """Ratio of the medians, with a bootstrap interval of 99 %."""
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(np.asarray(of), (DRAWS, len(of))), axis=1) for of in (old, new)]
    low, high = np.quantile(medians[1] / medians[0], (0.005, 0.995))
    return Estimate(float(np.median(new) / np.median(old)), float(low), float(high))
