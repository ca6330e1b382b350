"""`proguard-edge scan`: folders and data sets of any size, with Ray Data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import click

from proguard_edge.cli.exit import ERROR, SAFE, UNSAFE, handle_errors, printable
from proguard_edge.cli.options import FILE, guard_options, load_guard, server_options

if TYPE_CHECKING:
    from proguard_edge.scan.drive import Run
    from proguard_edge.scan.run import Scan
    from proguard_edge.scan.worker import Progress

SHOWN = 30


@click.command()
@click.argument("sources", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", "out", type=FILE, required=True, help="The folder to fill.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["jsonl", "parquet"]),
    default="jsonl",
    show_default=True,
    help="Of the verdicts in the folder `parts`.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one per two cores]")
@click.option("--shard-rows", type=click.IntRange(1), help="Rows of a part.  [default: up to 256]")
@click.option(
    "--address", help="A running Ray cluster, HOST:PORT or auto.  [default: this machine]"
)
@guard_options
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@handle_errors
def scan(
    sources: tuple[Path, ...],
    out: Path,
    output: Literal["jsonl", "parquet"],
    workers: int | None,
    shard_rows: int | None,
    address: str | None,
    mode: Literal["verdict", "reason"],
    as_json: bool,
    threads: int,
    **loading: Any,
) -> None:
    """Judge SOURCES: .jsonl, .jsonl.gz and .parquet with user, response, image, or folders.

    In a folder every .txt and .md is a user's text and every picture an image; other files are
    counted. Run it again after a stop: parts that are finished are not judged twice. On a cluster
    every node needs the same paths and proguard-edge[ray]. --threads: of each worker.
    Exit code 0: all safe. 1: something unsafe. 3: an error, or rows without a verdict.
    """
    from proguard_edge.export.extras import need
    from proguard_edge.scan.drive import judge_rest
    from proguard_edge.scan.plan import Judging, make_plan
    from proguard_edge.scan.run import Scan
    from proguard_edge.scan.store import Store
    from proguard_edge.scan.worker import Task
    from proguard_edge.signature import read_key

    need("ray", "pyarrow", "matplotlib", extra="ray")
    if loading["public_key"] is not None:
        # Nodes need no copy of the file.
        loading["public_key"] = read_key(loading["public_key"])
    store = Store(out)
    begun = store.begun()
    guard, policy = load_guard(threads=threads, **loading)
    with guard:
        judging, folder = Judging.of(guard, policy, mode), guard.artifact.folder.absolute()
    del loading["policy_file"], loading["verify"]
    task = Task({**loading, "artifact": folder}, policy, judging, threads)
    found = Scan(store, make_plan(sources, judging, output, shard_rows, begun))
    with _bar(found) as show:
        run = judge_rest(found, task, workers=workers, address=address, show=show)
    summed = _write(found, run)
    if as_json:
        click.echo(json.dumps(summed))
    else:
        _show(summed, out)
    errors = found.missing or found.tally.labels["error"]
    sys.exit(ERROR if errors else UNSAFE if found.tally.labels["unsafe"] else SAFE)


@contextmanager
def _bar(found: Scan) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on what is stderr now: later Ray's noise goes there, into a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    # When the first rows came, and how many there were: loading takes its time, once.
    first: list[tuple[float, int]] = []
    columns = (
        *(TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        TextColumn("{task.fields[speed]:.1f} rows/s, {task.fields[found]}"),
    )
    terminal = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding)
    with terminal, Bar(*columns, console=Console(file=terminal)) as bar:
        task = bar.add_task("", total=found.plan.rows, speed=0.0, found="")

        def show(progress: Progress) -> None:
            if progress.rows > found.found_rows and not first:
                first.append((monotonic(), progress.rows))
            since, rows = first[0] if first else (0.0, progress.rows)
            speed = (progress.rows - rows) / (monotonic() - since)
            counts = f"{progress.unsafe} unsafe, {progress.errors} errors"
            bar.update(task, completed=progress.rows, speed=speed, found=counts)

        show(found.progress())
        yield show


def _write(found: Scan, run: Run) -> dict[str, Any]:
    """Write the report into the scan's folder; the summary."""
    from proguard_edge.scan.report import groups_of, markdown, plot, summary
    from proguard_edge.unseen import policy_draft

    store, groups = found.store, groups_of(found)
    summed = summary(found, run, groups)
    if groups:
        store.write("draft.yaml", policy_draft(groups).to_yaml().encode())
    store.write("report.png", plot(summed))
    store.write("report.md", markdown(summed).encode("utf-8", "replace"))
    text = json.dumps(summed, indent=1, ensure_ascii=False) + "\n"
    store.write("summary.json", text.encode("utf-8", "backslashreplace"))
    return summed


def _show(summed: dict[str, Any], out: Path) -> None:
    counts = ", ".join(f"{summed[label]} {label}" for label in ("safe", "unsafe", "error"))
    click.echo(counts)
    rows = [(c["rows"], f"{c['id']} {c['name']}") for c in summed["categories"]]
    rows += [(g["rows"], f"{g['name']} (not in the policy)") for g in summed["unseen"]["groups"]]
    for count, name in sorted(rows, key=lambda row: -row[0])[:SHOWN]:
        click.echo(f"  {count:>6}  {printable(name)}")
    for path, endings in summed["not_looked_at"].items():
        files = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        click.echo(printable(f"not looked at in {path}: {files}"))
    for failure in summed["failures"]:
        click.echo(f"error: {printable(failure)}", err=True)
    if summed["missing"]:
        click.echo(f"error: {summed['missing']} rows have no verdict: run it again", err=True)
    click.echo(f"{out / 'report.md'}, {out / 'summary.json'}")
