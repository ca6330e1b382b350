"""Fit an artifact's scores to labelled rows: probabilities, and bounds on what is missed.

    python -m proguard_edge.calibration.fit ARTIFACT --data ROWS [--rate 0.05 …] [--keep-scores]

The rows must be of the kind that will be judged, and none that was trained on. One half of them,
chosen by their ids, sets bias and temperature of each labelled part; on the other half the bounds
are fitted that `--max-miss-rate` uses, for a bound on rows that the scores were fitted to would be
too good. Only the manifest changes, and with it the artifact's digest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact, Calibration, MissBound, write_artifact
from proguard_edge.bench.eval import Judged, judge_rows
from proguard_edge.calibration.conformal import miss_bound
from proguard_edge.calibration.scores import fit_calibration
from proguard_edge.guard import Guard
from proguard_edge.train.rows import Row
from proguard_edge.verdict import Verdict

PARTS = ("request", "response")
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)


def judged_rows(folder: Path, rows: Sequence[Row]) -> list[Judged]:
    """Rows with the verdicts of the artifact as it stands."""
    with Guard.load(folder) as guard:
        return judge_rows(guard, rows)


def calibrate(judged: Sequence[Judged], miss_cost: dict[str, float]) -> dict[str, Calibration]:
    """Fit scores of an artifact without calibration, each labelled part by itself.

    Raises ValueError where a part has one class only.
    """
    found = {}
    for part in PARTS:
        scores, unsafe = labelled(judged, part)
        if len(scores):
            clipped = np.clip(scores, 1e-12, 1 - 1e-12)
            differences = np.log(clipped / (1 - clipped))
            found[part] = fit_calibration(differences, unsafe, miss_cost.get(part, 1.0))
    return found


def bounds(judged: Sequence[Judged], rates: Sequence[float]) -> dict[str, list[MissBound]]:
    """Bounds on missed rows, of every rate that there are rows enough for."""
    found: dict[str, list[MissBound]] = {}
    for part in PARTS:
        scores, unsafe = labelled(judged, part)
        for rate in sorted(rates):
            try:
                found.setdefault(part, []).append(miss_bound(scores[unsafe], rate))
            except ValueError as error:
                print(f"{part}: {error}")
    return {part: of for part, of in found.items() if of}


def labelled(judged: Sequence[Judged], part: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores [N] and truths [N] of the rows whose part is labelled and was judged."""
    pairs = [
        (found.score, getattr(row, f"{part}_label") == "unsafe")
        for row, verdict in judged
        if isinstance(verdict, Verdict)
        and getattr(row, f"{part}_label") is not None
        and (found := getattr(verdict, part)) is not None
    ]
    return np.array([s for s, _ in pairs], np.float64), np.array([y for _, y in pairs], bool)


def write(
    folder: Path,
    calibration: dict[str, Calibration] | None = None,
    miss_bounds: dict[str, list[MissBound]] | None = None,
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
    rows = list(read_rows(args.data))
    if args.keep_scores:
        behind = rows
    else:
        before = [row for row in rows if row.in_held_out(50)]
        behind = [row for row in rows if not row.in_held_out(50)]
        write(args.artifact, calibration={})
        fitted = calibrate(judged_rows(args.artifact, before), dict.fromkeys(PARTS, args.miss_cost))
        write(args.artifact, calibration=fitted)
        print(f"scores fitted to {len(before)} rows: {fitted}")
    found = bounds(judged_rows(args.artifact, behind), args.rate or RATES)
    artifact = write(args.artifact, miss_bounds=found)
    for part, of in found.items():
        for bound in of:
            print(f"{part}: {bound}")
    print(f"{artifact.folder}: {artifact.digest}")


if __name__ == "__main__":
    main()
