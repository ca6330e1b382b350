"""Cold start of the command: seconds from the call to a printed verdict, and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from proguard_edge.bench.intervals import quantile
from proguard_edge.errors import EngineError

TEXT = "What should I cook tonight with rice, spinach and two eggs?"


def one_run(artifact: Path | None, cache: str, text: str = TEXT) -> tuple[float, float]:
    """Seconds and peak RSS in MB of one process. Raises EngineError when it gave no verdict."""
    command = [sys.executable, "-m", "proguard_edge", "moderate", "--text", text, "--json"]
    command += ["--artifact", str(artifact)] if artifact else []
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "PROGUARD_EDGE_CACHE": cache},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as pipe:
        printed = pipe.read()
    # Not `communicate`: it throws away what the process used.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1) or b'"request"' not in printed:
        raise EngineError(f"`proguard-edge moderate` left with exit code {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def measure_startup(artifact: Path | None, runs: int) -> dict[str, Any]:
    """The first run fills the caches (digests, prefix state) and is reported apart."""
    with tempfile.TemporaryDirectory() as cache:
        first = one_run(artifact, cache)
        rest = [one_run(artifact, cache) for _ in range(runs)]
    times = [seconds for seconds, _ in rest]
    return {
        "first_s": round(first[0], 3),
        "cached_s": quantile(times, 0.5).to_dict(),
        "runs_s": [round(seconds, 3) for seconds in times],
        "peak_rss_mb": round(max(rss for _, rss in [first, *rest])),
    }
