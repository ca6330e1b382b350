"""`proguard-edge eval`: how accurate an artifact is on labelled rows."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE, guard_options, load_guard, server_options


@click.command("eval")
@click.argument("data", nargs=-1, required=True, type=FILE)
@guard_options
@server_options
@click.option("--out", "-o", type=FILE, required=True, help="Folder of report and verdicts.")
@click.option("--limit", type=click.IntRange(1), help="Rows of each file.")
@click.option("--published", type=FILE, help="CSV: table, metric, model, dataset, value.")
@click.option("--similarity", type=FILE, help="Folder of sentence embeddings: also unseen risks.")
@click.option("--resamples", type=click.IntRange(0), default=500, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The report as the only output.")
@handle_errors
def evaluate(
    data: tuple[Path, ...],
    out: Path,
    limit: int | None,
    published: Path | None,
    similarity: Path | None,
    resamples: int,
    as_json: bool,
    mode: Literal["verdict", "reason"],
    **loading: Any,
) -> None:
    """F1, recall, false alarms, AUROC, categories and unseen risks on DATA, by source.

    DATA: files or folders of any known format. Verdicts are kept in OUT: a run that was stopped
    goes on where it was. OUT gets report.json, report.md and report.png.
    """
    from proguard_edge.bench.evaluation import evaluate as figures
    from proguard_edge.bench.evaluation import published as published_figures
    from proguard_edge.bench.evaluation_report import markdown, plot
    from proguard_edge.export.extras import need
    from proguard_edge.train.sources import read_rows

    need("matplotlib", extra="bench")
    others = published_figures(published) if published else lambda *_: {}
    rows = [row for path in data for row in islice(read_rows(path), limit)]
    guard, policy = load_guard(**loading)
    with guard:
        lines = _judge(guard, rows, out, policy, mode)
        found = {
            "format": "proguard-edge-eval/1",
            "artifact": guard.artifact.digest,
            "artifact_name": guard.artifact.name,
            "engine": guard.engine.kind,
            "mode": mode,
            "max_miss_rate": guard.artifact.max_miss_rate,
            **figures(rows, lines, resamples=resamples),
        }
        for group in found["groups"]:
            group["published"] = others(group["source"], group["modality"], group["part"])
        if similarity:
            found["unseen"] = _unseen(guard, rows, similarity, out, mode)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (out / "report.json").write_text(text, encoding="utf-8")
    (out / "report.md").write_text(markdown(found), encoding="utf-8")
    plot(found, out / "report.png")
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found, out)


def _judge(guard: Any, rows: list[Any], out: Path, policy: Any, mode: Any) -> dict[str, Any]:
    from rich.progress import Progress

    from proguard_edge.bench.verdicts import kept_verdicts
    from proguard_edge.cli.console import stderr_console

    with Progress(console=stderr_console()) as progress:
        task = progress.add_task("judging", total=len(rows))
        found: dict[str, Any] = kept_verdicts(
            guard,
            rows,
            out / "verdicts",
            lambda done: progress.update(task, completed=done),
            policy=policy,
            mode=mode,
        )
    return found


def _unseen(guard: Any, rows: list[Any], folder: Path, out: Path, mode: Any) -> dict[str, Any]:
    from proguard_edge.bench.unseen import refuses, unseen_risks
    from proguard_edge.errors import ArtifactError
    from proguard_edge.train.similarity import SentenceSimilarity

    if reason := refuses(guard):
        raise ArtifactError(f"{reason}: leave --similarity out")
    similarity = SentenceSimilarity(folder)
    found: dict[str, Any] = unseen_risks(guard, rows, similarity, out / "verdicts", mode=mode)
    return found


def _show(found: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from proguard_edge.bench.evaluation_report import HEAD, rows
    from proguard_edge.cli.console import stdout_console

    table = Table(*HEAD)
    for row in rows(found):
        table.add_row(*row)
    stdout_console().print(table)
    for name in ("main", "exact"):
        if found["categories"] and (share := found["categories"][name]):
            click.echo(f"category, {name}: {share['accuracy']:.3f} of {share['rows']} rows")
    if unseen := found.get("unseen"):
        click.echo(
            f"unseen risks: detection F1 {unseen['detection_f1']:.3f}, description "
            f"{unseen['description_reward']} on {unseen['hidden']} hidden rows"
        )
    click.echo(f"{out / 'report.md'}, {out / 'report.png'}, {out / 'report.json'}")
