"""Cold start of the command: seconds from the call to a printed verdict, and peak memory.

    python -m proguard_edge.bench.startup [--artifact DIR] [--runs 7]

The first run fills the caches (digests, prefix state) and is reported apart. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEXT = "What should I cook tonight with rice, spinach and two eggs?"


def one_run(artifact: Path | None, cache: str) -> tuple[float, float]:
    """Seconds and peak RSS in MB of one process. Raises RuntimeError when it gave no verdict."""
    command = [sys.executable, "-m", "proguard_edge", "moderate", "--text", TEXT, "--json"]
    command += ["--artifact", str(artifact)] if artifact else []
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, "PROGUARD_EDGE_CACHE": cache}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1) or b'"request"' not in printed:
        raise RuntimeError(f"exit code {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        first = one_run(args.artifact, cache)
        rest = [one_run(args.artifact, cache) for _ in range(args.runs)]
    report: dict[str, Any] = {
        "first_run_s": round(first[0], 3),
        "cached_runs_s": [round(seconds, 3) for seconds, _ in rest],
        "cached_median_s": round(statistics.median(seconds for seconds, _ in rest), 3),
        "peak_rss_mb": round(max(rss for _, rss in [first, *rest])),
    }
    print(
        f"first run {report['first_run_s']} s, then {report['cached_median_s']} s (median), "
        f"peak {report['peak_rss_mb']} MB"
    )
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
