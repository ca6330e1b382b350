"""`proguard-edge bench`: prove latency on this machine, and compare choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from proguard_edge.cli.exit import handle_errors

SLOWER = 1


@click.group()
def bench() -> None:
    """Time verdicts on this machine, side by side with other artifacts and programs."""


def _outputs(command: Any) -> Any:
    for option in (
        click.option("--out", type=click.Path(path_type=Path), help="JSON report."),
        click.option("--markdown", type=click.Path(path_type=Path), help="The report as a page."),
        click.option("--plot", type=click.Path(path_type=Path), help="PNG."),
    ):
        command = option(command)
    return command


@bench.command()
@click.argument("artifact", required=False, default="")
@click.option(
    "--vs",
    multiple=True,
    metavar="ARTIFACT|ARTIFACT@ENGINE|ARTIFACT@http://ADDRESS|PEER=FOLDER",
    help="Another contender, timed in turn with the first. Peers: transformers, "
    "genai (of a checkpoint), llama.cpp, openvino (of an INT4 artifact).",
)
@click.option("--scenarios", default="default", show_default=True, help="A name, or a file (YAML).")
@click.option("--rounds", type=click.IntRange(3), default=30, show_default=True)
@click.option(
    "--seconds", type=float, default=90, show_default=True, help="No new round begins after them."
)
@click.option("--threads", type=click.IntRange(0), default=0, help="0 = all cores.")
@click.option("--seed", type=int, default=0, show_default=True)
@_outputs
@handle_errors
def latency(
    artifact: str,
    vs: tuple[str, ...],
    scenarios: str,
    rounds: int,
    seconds: float,
    threads: int,
    seed: int,
    out: Path | None,
    markdown: Path | None,
    plot: Path | None,
) -> None:
    """Time to a verdict. ARTIFACT: a folder, by default the starter. The last line is JSON."""
    from rich.progress import Progress

    from proguard_edge.bench.latency import Settings
    from proguard_edge.bench.runs import latency_report
    from proguard_edge.cli.console import stderr_console

    settings = Settings(rounds, seconds, seed=seed)
    with Progress(console=stderr_console(), transient=True) as progress:
        task = progress.add_task("loading", total=None)

        def moved(done: int, of: int) -> None:
            progress.update(task, description="timing", completed=done, total=of)

        report = latency_report([artifact, *vs], scenarios, settings, threads, moved)
    _finish(report, out, markdown, plot)


@bench.command()
@click.argument("artifact", required=False, default="")
@click.option("--requests", type=click.IntRange(1), default=200, show_default=True, help="A load.")
@click.option("--clients", type=click.IntRange(1), multiple=True, help="Closed loop; repeatable.")
@click.option("--rate", type=float, multiple=True, help="Poisson arrivals a second; repeatable.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled rows instead of our own.")
@click.option("--threads", type=click.IntRange(0), default=0, help="0 = all cores.")
@click.option("--seed", type=int, default=0, show_default=True)
@_outputs
@handle_errors
def throughput(
    artifact: str,
    requests: int,
    clients: tuple[int, ...],
    rate: tuple[float, ...],
    data: Path | None,
    threads: int,
    seed: int,
    out: Path | None,
    markdown: Path | None,
    plot: Path | None,
) -> None:
    """Requests a second, and the time of each under load. By default one client and two."""
    from rich.progress import Progress

    from proguard_edge.bench.runs import throughput_report
    from proguard_edge.bench.throughput import Load
    from proguard_edge.cli.console import stderr_console

    if not clients and not rate:
        clients = (1, 2)
    loads = [Load(requests, count, None, seed) for count in clients]
    loads += [Load(requests, 1, each, seed) for each in rate]
    with Progress(console=stderr_console(), transient=True) as progress:
        task = progress.add_task("loading", total=requests * len(loads))

        def moved(load: str, done: int) -> None:
            progress.update(task, description=load, completed=done)

        report = throughput_report(artifact, loads, data, threads, moved)
    _finish(report, out, markdown, plot)


@bench.command()
@click.argument("artifact", required=False, type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(1), default=7, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON report.")
@handle_errors
def startup(artifact: Path | None, runs: int, out: Path | None) -> None:
    """Seconds from the call of `proguard-edge moderate` to its verdict, and peak memory."""
    from proguard_edge.bench.runs import startup_report

    report = startup_report(artifact, runs)
    found = report["results"]
    again = found["cached_s"]
    click.echo(
        f"first run {found['first_s']} s, then {again['value']} s (median of {runs}), "
        f"peak {found['peak_rss_mb']} MB"
    )
    _write(report, out)


@bench.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=click.FloatRange(0, 10),
    default=0.1,
    show_default=True,
    help="How much slower a scenario may become; a share.",
)
@click.option("--any-machine", is_flag=True, help="Also reports of different machines.")
@click.option("--json", "as_json", is_flag=True)
@handle_errors
def compare(old: Path, new: Path, threshold: float, any_machine: bool, as_json: bool) -> None:
    """Whether the report NEW is slower than OLD; exit code 1 where it is."""
    from dataclasses import asdict

    from proguard_edge.bench.compare import compare as compare_reports
    from proguard_edge.bench.compare import other_machine, read_report
    from proguard_edge.errors import InputError

    reports = read_report(old), read_report(new)
    if not any_machine and (lines := other_machine(*reports)):
        raise InputError(
            f"the reports are of different machines ({'; '.join(lines)}): --any-machine compares"
        )
    changes = compare_reports(*reports, threshold)
    if as_json:
        click.echo(json.dumps([asdict(change) for change in changes]))
    else:
        for change in changes:
            ratio = change.ratio
            word = "SLOWER" if change.slower else "faster" if change.faster else "as before"
            click.echo(
                f"{change.scenario:<20} {change.contender:<24} ×{ratio.value:.3f} "
                f"({ratio.low:.3f}–{ratio.high:.3f})  {word}"
            )
    if any(change.slower for change in changes):
        raise SystemExit(SLOWER)


def _finish(
    report: dict[str, Any], out: Path | None, markdown: Path | None, plot: Path | None
) -> None:
    from rich.table import Table

    from proguard_edge.bench import report as pages
    from proguard_edge.cli.console import stdout_console

    head, rows = pages.table(report)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console = stdout_console()
    console.print(table)
    if report.get("warning"):
        click.echo(f"warning: {report['warning']}", err=True)
    if markdown:
        markdown.write_text(pages.markdown(report), encoding="utf-8")
    if plot:
        pages.plot(report, plot)
    _write(report, out)


def _write(report: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(report))
