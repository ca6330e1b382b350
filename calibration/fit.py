"""Fit an artifact's scores to labelled rows: probabilities, and bounds on what is missed.

The rows must be of the kind that will be judged, and none that was trained on. One half of them,
chosen by their ids, sets bias and temperature of each labelled part; on the other half the bounds
are fitted that `--max-miss-rate` uses, for a bound on rows that the scores were fitted to would be
too good. Only the manifest changes, and with it the artifact's digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact, Calibration, MissBound, write_artifact
from proguard_edge.artifact.format import PARTS
from proguard_edge.calibration.conformal import miss_bound
from proguard_edge.calibration.judged import Judged, judge_rows, labelled
from proguard_edge.calibration.reliability import Reliability, reliability
from proguard_edge.calibration.scores import fit_calibration
from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)


def plain_guard(folder: Path, threads: int = 0) -> Guard:
    """A guard of the artifact as it stands, but without the thresholds of categories, which move
    scores after calibration. threads: 0 = all cores."""
    guard = Guard.load(folder, threads=threads)
    return Guard(replace(guard.artifact, category_thresholds={}), guard.engine, guard.eyes)


def judged_rows(folder: Path, rows: Sequence[Row]) -> list[Judged]:
    """Rows with the verdicts of `plain_guard`."""
    with plain_guard(folder) as guard:
        return judge_rows(guard, rows)


def halves(judged: Iterable[Judged]) -> tuple[list[Judged], list[Judged]]:
    """Rows that scores are fitted to, and the others; decided by their ids alone."""
    first, second = list[Judged](), list[Judged]()
    for pair in judged:
        (first if pair[0].in_held_out(50) else second).append(pair)
    return first, second


def calibrate(
    judged: Sequence[Judged],
    own: Mapping[str, Calibration],
    miss_cost: Mapping[str, float],
) -> dict[str, Calibration]:
    """New calibrations of the labelled parts.

    own: those that the verdicts were given with. miss_cost: of each part, 1 where it is not named.
    Raises InputError where a part cannot be fitted.
    """
    found = {}
    for part in PARTS:
        scores, truth, _ = labelled(judged, part)
        if scores:
            differences = logit_differences(scores, own.get(part, Calibration()))
            try:
                found[part] = fit_calibration(
                    differences, np.array(truth), miss_cost.get(part, 1.0)
                )
            except ValueError as error:
                raise InputError(
                    f"{part}: {error}; give more rows, or --keep-scores to fit bounds alone"
                ) from None
    return found


def bounds(
    judged: Sequence[Judged],
    own: Mapping[str, Calibration],
    calibration: Mapping[str, Calibration],
    rates: Sequence[float],
    report: Callable[[str], object],
) -> dict[str, list[MissBound]]:
    """Bounds on missed rows under `calibration`, of every rate that there are rows enough for.

    own: the calibrations that the verdicts were given with. report: gets a line for every rate
    that has no bound.
    """
    found: dict[str, list[MissBound]] = {}
    for part in PARTS:
        scores, truth = rescored(judged, part, own, calibration)
        missable = [score for score, unsafe in zip(scores, truth, strict=True) if unsafe]
        for rate in sorted(rates):
            try:
                found.setdefault(part, []).append(miss_bound(np.array(missable), rate))
            except ValueError as error:
                if scores:
                    report(f"{part}: {error}")
    return {part: of for part, of in found.items() if of}


def rescored(
    judged: Sequence[Judged],
    part: str,
    own: Mapping[str, Calibration],
    calibration: Mapping[str, Calibration],
) -> tuple[list[float], list[bool]]:
    """Scores as `calibration` gives them, and whether unsafe in truth, of rows labelled in `part`.

    own: the calibrations that the verdicts were given with.
    """
    scores, truth, _ = labelled(judged, part)
    before, after = (of.get(part, Calibration()) for of in (own, calibration))
    if after != before:
        scores = [after.score(d) for d in logit_differences(scores, before)]
    return scores, truth


def errors_of(
    judged: Sequence[Judged],
    own: Mapping[str, Calibration],
    calibration: Mapping[str, Calibration],
) -> dict[str, Reliability]:
    """How reliable the scores of each labelled part are under `calibration`."""
    found = {}
    for part in PARTS:
        scores, truth = rescored(judged, part, own, calibration)
        if scores:
            found[part] = reliability(scores, truth)
    return found


def logit_differences(scores: Sequence[float], own: Calibration) -> NDArray[np.float64]:
    """The model's logit differences behind scores that `own` made."""
    return np.array([own.logit(score) for score in scores])


def write(
    folder: Path,
    calibration: Mapping[str, Calibration] | None = None,
    miss_bounds: Mapping[str, list[MissBound]] | None = None,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Artifact:
    """Write what is given into the manifest; its digest changes, the files do not.

    say: told where a signature on the old manifest was removed. Raises ArtifactError where the
    folder cannot be written.
    """
    manifest = Artifact.open(folder).description()
    if calibration is not None:
        # Bounds and thresholds on other scores would mean nothing.
        manifest.pop("miss_bounds", None)
        manifest.pop("category_thresholds", None)
        manifest["calibration"] = {part: asdict(c) for part, c in calibration.items()}
    if miss_bounds is not None:
        manifest["miss_bounds"] = {p: [asdict(b) for b in of] for p, of in miss_bounds.items()}
    if thresholds is not None:
        manifest["category_thresholds"] = {part: dict(of) for part, of in thresholds.items()}
    try:
        return write_artifact(folder, manifest, say)
    except OSError as error:
        what = error.strerror or error
        raise ArtifactError(
            f"{folder}: cannot be written ({what}); calibrate a copy of the folder"
        ) from None
