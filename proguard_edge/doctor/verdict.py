"""A golden verdict: the guard judges a safe and an unsafe text, and must say what it should.

Of the starter labels and scores are known (`golden.json`). Any artifact must give whole verdicts,
the same ones twice, and the same again from a second loading on one thread that takes nothing from
the cache folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proguard_edge.doctor.finding import Finding, Subject, size
from proguard_edge.doctor.helper import AFTER_DEATH
from proguard_edge.doctor.trial import GOLDEN, Judged, Trial, judge_twice
from proguard_edge.errors import ProGuardEdgeError, WorkerError
from proguard_edge.starter import STARTER

NAME = "verdict"
# Of the log odds of "unsafe". Kernels differ between processors: whether activations are rounded
# to 8 bits moved the starter's golden scores by 0.01 and 0.05, those of six other texts by 0.09 at
# most. The number of threads moved nothing.
TOLERANCE = 0.3
# Between two verdicts of one loading.
SAME = 1e-3
JUDGE_S = 1800.0


@dataclass(frozen=True)
class Expected:
    """Label, score and category id of each golden text, for the artifact of that digest."""

    artifact: str
    verdicts: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, path: Path = GOLDEN) -> Expected:
        """What ships with the package."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def check(subject: Subject) -> Iterator[Finding]:
    """The verdicts, then whether the first one had to wait for the prefix."""
    if subject.artifact is None:
        found = "nothing was judged: the artifact cannot be used"
        yield Finding(NAME, "problem", found, "mend what is said of the artifact")
        return
    if not subject.fits:
        found = "nothing was judged: it would take more memory than can be had"
        yield Finding(NAME, "problem", found, "see what is said of the memory")
        return
    try:
        trial = subject.helper.run(judge_twice, subject.folder, JUDGE_S)
    except ProGuardEdgeError as error:
        yield Finding(NAME, "problem", f"no verdict was reached: {error}", _remedy(error))
        return
    expected = Expected.load()
    yield judged(trial, expected, subject.artifact.digest, subject.folder == STARTER)
    yield prefix(trial)


def _remedy(error: ProGuardEdgeError) -> str:
    if isinstance(error, WorkerError):
        return AFTER_DEATH
    return "mend what it says; if it is nothing of yours, copy or export the artifact again"


def judged(trial: Trial, expected: Expected, digest: str, starter: bool) -> Finding:
    """digest: the artifact's. starter: whether it is the one that ships."""
    details = asdict(trial)
    known = expected.verdicts if digest == expected.artifact else None
    faults = list(_faults(trial, known))
    if starter and known is None:
        faults.append("this starter is not the one that this version was released with")
    if faults:
        remedy = (
            "rely on no verdict here: empty the cache folder, then try another version of "
            "onnxruntime, then another machine"
        )
        return Finding(NAME, "problem", "; ".join(faults), remedy, details)
    said = ", ".join(f"the {name} text {of.outcome}" for name, of in trial.first.items())
    word = "as it should" if known else "whatever it should"
    return Finding(
        NAME,
        "ok",
        f"calls {said}, {word}; the same again, and from a second loading; "
        f"{max(of.ms for of in trial.again.values()):.0f} ms to a verdict, "
        f"{trial.load_s:.1f} s to load, {size(trial.peak or 0)} of memory",
        details=details,
    )


def _faults(trial: Trial, known: dict[str, dict[str, Any]] | None) -> Iterator[str]:
    for name, first in trial.first.items():
        if first.malformed:
            yield f"the verdict on the {name} text is malformed: {first.malformed}"
            continue
        for what, other, tolerance in (
            ("judged again", trial.again[name], SAME),
            ("loaded again, on one thread,", trial.alone[name], TOLERANCE),
        ):
            if difference := _difference(first, other, tolerance):
                yield f"the {name} text, {what} gives another verdict: {difference}"
        if known is not None and (difference := _difference(Judged(**known[name]), first)):
            yield f"the {name} text is not judged as it should: {difference}"


def _difference(one: Judged, other: Judged, tolerance: float = TOLERANCE) -> str | None:
    if one.outcome != other.outcome:
        return f"{other.outcome}, not {one.outcome}"
    if one.score is None or other.score is None:
        return None
    if abs(_log_odds(one.score) - _log_odds(other.score)) > tolerance:
        return f"score {other.score:.4f}, not {one.score:.4f}"
    return None


def _log_odds(score: float) -> float:
    bounded = min(max(score, 1e-9), 1 - 1e-9)
    return math.log(bounded / (1 - bounded))


def prefix(trial: Trial) -> Finding:
    """Whether keys and values of the prompt's prefix lay in the cache folder."""
    if trial.cached is None:
        found = "this engine keeps no prefix between runs"
        return Finding("prefix", "note", found, "nothing to do: each start reads the policy again")
    details = {"cached": trial.cached, "kept": trial.kept}
    if trial.cached:
        found = "the prefix of this artifact lay in the cache: a first verdict costs nothing extra"
        return Finding("prefix", "ok", found, details=details)
    if trial.kept:
        found = "the prefix of this artifact was read now and is kept: next time it costs nothing"
        return Finding("prefix", "ok", found, details=details)
    return Finding(
        "prefix",
        "warning",
        "the prefix of this artifact cannot be kept: every start reads the policy again",
        "see what is said of the cache",
        details,
    )
