"""`proguard-edge moderate-batch`: a JSONL file of rows to a JSONL file of verdicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from proguard_edge.cli.exit import ERROR, SAFE, UNSAFE, handle_errors
from proguard_edge.cli.options import FILE, guard_options, load_guard, server_options


@click.command()
@click.argument("source", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="The JSONL file to write or go on.")
@guard_options
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@handle_errors
def moderate_batch(
    source: Path,
    output: Path,
    mode: Literal["verdict", "reason"],
    as_json: bool,
    **loading: Any,
) -> None:
    """Judge each row of SOURCE (.jsonl or .jsonl.gz with user, response, image).

    Run it again after a stop: rows that stand in the output are not judged twice.
    Exit code 0: all safe. 1: something unsafe. 3: at least one row is an error.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from proguard_edge.batch import Summary, read_rows, run_batch

    total = sum(1 for _ in read_rows(source))
    guard, policy = load_guard(**loading)
    summary = Summary()
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with guard, Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("judging", total=total)
        for summary in run_batch(guard, source, output, policy=policy, mode=mode):
            progress.advance(task)
            found = f"{summary.unsafe} unsafe, {summary.errors} errors"
            progress.update(task, description=f"judging ({found})")
    _report(summary, as_json)
    sys.exit(ERROR if summary.errors else UNSAFE if summary.unsafe else SAFE)


def _report(summary: Any, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps(asdict(summary), ensure_ascii=False))
        return
    click.echo(f"{summary.safe} safe, {summary.unsafe} unsafe, {summary.errors} errors")
    for name, count in sorted(summary.categories.items(), key=lambda item: -item[1]):
        click.echo(f"  {count:>6}  {name}")
