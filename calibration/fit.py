"""Fit an artifact's scores to labelled rows: probabilities, and bounds on what is missed.

    python -m proguard_edge.calibration.fit ARTIFACT --data ROWS [--rate 0.05 …] [--keep-scores]

The rows must be of the kind that will be judged, and none that was trained on. One half of them,
chosen by their ids, sets bias and temperature of each labelled part; on the other half the bounds
are fitted that `--max-miss-rate` uses, for a bound on rows that the scores were fitted to would be
too good. Only the manifest changes, and with it the artifact's digest.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact, Calibration, MissBound, write_artifact
from proguard_edge.bench.eval import Judged, judge_rows, labelled
from proguard_edge.calibration.conformal import miss_bound
from proguard_edge.calibration.scores import fit_calibration
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row

PARTS = ("request", "response")
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
SMALLEST = 1e-12


def judged_rows(folder: Path, rows: Sequence[Row]) -> list[Judged]:
    """Rows with the verdicts of the artifact as it stands."""
    with Guard.load(folder) as guard:
        return judge_rows(guard, rows)


def calibrate(
    judged: Sequence[Judged],
    own: Mapping[str, Calibration],
    miss_cost: Mapping[str, float],
) -> dict[str, Calibration]:
    """New calibrations of the labelled parts.

    own: those that the verdicts were given with. miss_cost: of each part, 1 where it is not named.
    Raises ValueError where a part has one class only.
    """
    found = {}
    for part in PARTS:
        scores, truth, _ = labelled(judged, part)
        if scores:
            differences = _differences(scores, own.get(part, Calibration()))
            found[part] = fit_calibration(differences, np.array(truth), miss_cost.get(part, 1.0))
    return found


def bounds(
    judged: Sequence[Judged],
    own: Mapping[str, Calibration],
    calibration: Mapping[str, Calibration],
    rates: Sequence[float],
) -> dict[str, list[MissBound]]:
    """Bounds on missed rows under `calibration`, of every rate that there are rows enough for.

    own: the calibrations that the verdicts were given with.
    """
    found: dict[str, list[MissBound]] = {}
    for part in PARTS:
        scores, truth, _ = labelled(judged, part)
        missable = [score for score, unsafe in zip(scores, truth, strict=True) if unsafe]
        before, after = (of.get(part, Calibration()) for of in (own, calibration))
        if after != before:
            missable = [after.score(d) for d in _differences(missable, before)]
        for rate in sorted(rates):
            try:
                found.setdefault(part, []).append(miss_bound(np.array(missable), rate))
            except ValueError as error:
                print(f"{part}: {error}")
    return {part: of for part, of in found.items() if of}


def _differences(scores: Sequence[float], own: Calibration) -> NDArray[np.float64]:
    # A score can round to exactly 0 or 1, which no logit has.
    return np.array([own.difference(min(max(s, SMALLEST), 1 - SMALLEST)) for s in scores])


def write(
    folder: Path,
    calibration: Mapping[str, Calibration] | None = None,
    miss_bounds: Mapping[str, list[MissBound]] | None = None,
) -> Artifact:
    """Write what is given into the manifest; its digest changes, the files do not."""
    manifest: dict[str, Any] = dict(Artifact.open(folder).manifest)
    if calibration is not None:
        # Bounds on other scores would bound nothing.
        manifest.pop("miss_bounds", None)
        manifest["calibration"] = {part: asdict(c) for part, c in calibration.items()}
    if miss_bounds is not None:
        manifest["miss_bounds"] = {p: [asdict(b) for b in of] for p, of in miss_bounds.items()}
    for derived in ("format", "files"):
        del manifest[derived]
    return write_artifact(folder, manifest)


def main() -> None:
    """Command line; see the module docstring."""
    from proguard_edge.train.sources import read_rows

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rate", type=float, action="append", help=f"default: {RATES}")
    parser.add_argument("--miss-cost", type=float, default=1.0, help="in false alarms")
    parser.add_argument("--keep-scores", action="store_true", help="fit bounds alone")
    args = parser.parse_args()
    own = Artifact.open(args.artifact).calibration
    judged = judged_rows(args.artifact, list(read_rows(args.data)))
    fitted, behind = dict(own), judged
    if not args.keep_scores:
        before = [pair for pair in judged if pair[0].in_held_out(50)]
        behind = [pair for pair in judged if not pair[0].in_held_out(50)]
        fitted |= calibrate(before, own, dict.fromkeys(PARTS, args.miss_cost))
        print(f"scores fitted to {len(before)} rows: {fitted}")
    found = bounds(behind, own, fitted, args.rate or RATES)
    artifact = write(args.artifact, fitted, found)
    for part, of in found.items():
        for bound in of:
            print(f"{part}: {bound}")
    print(f"{artifact.folder}: {artifact.digest}")


if __name__ == "__main__":
    main()
