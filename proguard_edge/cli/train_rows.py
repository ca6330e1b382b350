"""`proguard-edge train rows`: labelled data of any known format, cleaned, counted and written."""

from __future__ import annotations

from pathlib import Path

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE


@click.command()
@click.argument("data", type=FILE, nargs=-1, required=True)
@click.option("--kind", default="auto", show_default=True, help="Format, when it is not plain.")
@click.option("--images", type=FILE, help="Where pictures that stand inside rows are written.")
@click.option("--not-in", type=FILE, multiple=True, help="Leave out requests of these files.")
@click.option("--total", type=click.IntRange(1), help="Draw so many rows, modalities balanced.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=FILE, help="Write the rows here, .jsonl or .jsonl.gz.")
@click.option("--plot", type=FILE, help="A PNG of the counts.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@handle_errors
def rows(
    data: tuple[Path, ...],
    kind: str,
    images: Path | None,
    not_in: tuple[Path, ...],
    total: int | None,
    seed: int,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Read labelled rows from DATA, drop duplicates, count them by modality, label and category."""
    import json

    from proguard_edge.train import report, sampling
    from proguard_edge.train.rows import write_jsonl
    from proguard_edge.train.sources import read_rows

    cleaned = sampling.deduplicate(row for path in data for row in read_rows(path, kind, images))
    kept = cleaned.rows
    if not_in:
        kept = sampling.without_overlap(kept, (row for path in not_in for row in read_rows(path)))
    overlapping = len(cleaned.rows) - len(kept)
    if total is not None:
        kept = sampling.balance(kept, total, seed)
    counts = report.count_rows(kept)
    if output is not None:
        write_jsonl(output, kept)
    if plot is not None:
        report.plot(counts, plot)
    dropped = {
        "equal": cleaned.exact,
        "equal_but_labelled_otherwise": cleaned.conflicting,
        "nearly_equal": cleaned.near,
        "in_excluded_files": overlapping,
    }
    if as_json:
        click.echo(json.dumps({"rows": len(kept), "dropped": dropped, "counts": counts}))
        return
    click.echo(report.markdown(counts), nl=False)
    click.echo("dropped: " + ", ".join(f"{n} {name}" for name, n in dropped.items()), err=True)
