"""A scan that is killed and gone on with, checked row by row, and its speed beside one guard's.

    python -m proguard_edge.bench.scan ROWS --artifact A --rows 20000 --out report.json

`scan` judges the first rows of ROWS (.jsonl or .jsonl.gz); at a random moment in its middle the
whole tree of its processes is killed with SIGKILL, and it is started again. Then every row must
have exactly one line, and on a sample the labels must be those of `moderate_many`. The sample is
also scanned alone: rows a second with and without starting and stopping, beside `moderate_many`
with all cores. The report is the last line of the output too.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import click

from proguard_edge.batch import BatchRow, label_of, read_rows
from proguard_edge.bench.machine import machine, warning
from proguard_edge.cli.exit import SAFE, UNSAFE, handle_errors
from proguard_edge.errors import InputError, ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.request import Request

POLL_S, MAX_WAIT_S = 0.2, 2.0
# A scan of rows of which some are errors ends with the code of an error, and is whole all the same.
ENDED = (SAFE, UNSAFE, 3)


def start(source: Path, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """A scan in a session of its own, by which its processes are found."""
    command = [sys.executable, "-m", "proguard_edge", "scan", str(source), "-o", str(out)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, start_new_session=True)


def kill_session(session: int) -> int:
    """SIGKILL for every process of a session; how many they were."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name of a process, in parentheses, may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append(int(folder.name))
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(found)


def kill_in_the_middle(
    source: Path, out: Path, options: list[str], rows: int, rng: random.Random
) -> dict[str, Any]:
    """Start a scan and kill it when a random share of the rows is done, and a bit later."""
    begin, wanted = time.monotonic(), rng.uniform(0.2, 0.8)
    scan = start(source, out, options)
    while _share(out, rows) < wanted:
        if scan.poll() is not None:
            raise InputError(f"the scan ended with {scan.returncode} before it was killed")
        time.sleep(POLL_S)
    time.sleep(rng.uniform(0, MAX_WAIT_S))
    processes = kill_session(scan.pid)
    if (code := scan.wait()) != -signal.SIGKILL:
        raise InputError(f"the scan ended with {code} before it was killed")
    return {
        "seconds": time.monotonic() - begin,
        "processes": processes,
        "rows_kept": len(lines_of(out)),
        "half_written": len(list(out.glob("parts/.*.tmp"))),
    }


def finish(source: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Run a scan to its end; its summary's account of this run, and the seconds of the process."""
    begin = time.monotonic()
    code = start(source, out, options).wait()
    if code not in ENDED or not (out / "summary.json").exists():
        raise InputError(f"the scan ended with {code} and no report")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    if not summary["complete"]:
        raise InputError(f"the scan is not complete: {summary['failures']}")
    return {**summary["run"], "exit_code": code, "process_seconds": time.monotonic() - begin}


def lines_of(out: Path) -> list[dict[str, Any]]:
    """All lines of a scan, by row."""
    parts = (path.read_bytes().splitlines() for path in _parts(out))
    return sorted((json.loads(raw) for part in parts for raw in part), key=lambda line: line["row"])


def steady(out: Path) -> float | None:
    """Rows a second between the first finished part and the last; None for fewer than three."""
    parts = sorted((p.stat().st_mtime, p.read_bytes().count(b"\n")) for p in _parts(out))
    if len(parts) < 3:
        return None
    return sum(rows for _, rows in parts[1:]) / (parts[-1][0] - parts[0][0])


def one_guard(artifact: Path | None, rows: list[BatchRow]) -> tuple[list[str], dict[str, float]]:
    """Labels of `moderate_many`, or names of errors, and how long it took with all cores."""
    begin = time.monotonic()
    with Guard.load(artifact) as guard:
        requests = [Request.from_row(row.row, Path()) for row in rows]  # type: ignore[arg-type]
        loaded = time.monotonic()
        found = [_label(answer) for answer in guard.moderate_many(requests)]
    seconds = time.monotonic() - loaded
    times = {"load_seconds": loaded - begin, "seconds": seconds}
    return found, {**times, "rows_per_second": len(rows) / seconds}


def _label(answer: Any) -> str:
    if isinstance(answer, ProGuardEdgeError):
        return type(answer).__name__
    return "unsafe" if answer.unsafe else "safe"


def _parts(out: Path) -> list[Path]:
    return list(out.glob("parts/[0-9]*.jsonl"))


def _share(out: Path, rows: int) -> float:
    """Of the shards, those that are finished."""
    if not (out / "scan.json").exists():
        return 0.0
    shard_rows = json.loads((out / "scan.json").read_text(encoding="utf-8"))["shard_rows"]
    return len(_parts(out)) / -(-rows // shard_rows)


def _write(rows: list[BatchRow], folder: Path, path: Path) -> Path:
    """Rows as JSONL; images, which lie in `folder`, by their whole path."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            if not isinstance(row.row, dict):
                raise InputError(f"{row.id}: {row.row}; the bench wants rows that can be read")
            images = row.row.get("image")
            listed = [images] if isinstance(images, str) else images or []
            row.row.update(id=row.id, image=[str(folder.absolute() / i) for i in listed] or None)
            file.write(json.dumps(row.row, ensure_ascii=False) + "\n")
    return path


@click.command()
@click.argument("source", metavar="ROWS", type=click.Path(path_type=Path, exists=True))
@click.option("--artifact", type=click.Path(path_type=Path, exists=True), help="[default: starter]")
@click.option("--rows", type=click.IntRange(8), default=20_000, show_default=True)
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True)
@click.option("--workers", type=click.IntRange(1))
@click.option("--threads", type=click.IntRange(0), default=0)
@click.option("--shard-rows", type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@handle_errors
def main(
    source: Path, artifact: Path | None, rows: int, sample: int, seed: int, out: Path, **scan: Any
) -> None:
    """Kill a scan of the first rows of ROWS, go on with it, check it and time it."""
    rng, block = random.Random(seed), machine()
    first = list(islice(read_rows(source), rows))
    options = ["--artifact", str(artifact.absolute())] if artifact else []
    for name, value in scan.items():
        options += [f"--{name.replace('_', '-')}", str(value)] if value else []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        whole = _write(first, source.parent, folder / "rows.jsonl")
        killed = kill_in_the_middle(whole, folder / "whole", options, len(first), rng)
        resumed = finish(whole, folder / "whole", options)
        lines = lines_of(folder / "whole")
        chosen = sorted(rng.sample(range(len(first)), min(sample, len(first))))
        some = [first[at] for at in chosen]
        alone = finish(_write(some, Path(), folder / "some.jsonl"), folder / "some", options)
        labels, guard = one_guard(artifact, some)
        found = {
            "format": "proguard-edge-bench-scan/1",
            "machine": block,
            "warning": warning(block),
            "rows": len(first),
            "killed": killed,
            "resumed": resumed,
            "lines": len(lines),
            "ids_exactly_once": Counter(x["id"] for x in lines) == Counter(r.id for r in first),
            "rows_exactly_once": [x["row"] for x in lines] == list(range(len(first))),
            "sample": {
                "rows": len(some),
                "same_labels": sum(
                    lines[at].get("error", {}).get("type", label_of(lines[at])) == label
                    for at, label in zip(chosen, labels, strict=True)
                ),
                "scan": {**alone, "steady_rows_per_second": steady(folder / "some")},
                "moderate_many": guard,
            },
        }
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
