"""`proguard-edge calibrate`: fit an artifact's scores, bounds and thresholds to labelled rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE

if TYPE_CHECKING:
    from proguard_edge.train.rows import Row

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_ERRORS = {
    "ece": "calibration error",
    "ece_adaptive": "calibration error, bins of equal mass",
    "ece_balanced": "calibration error, classes balanced",
    "brier": "Brier score",
}


@click.command()
@click.argument("artifact", type=FILE)
@click.option(
    "--data", type=FILE, required=True, multiple=True, help="Labelled rows; may be repeated."
)
@click.option(
    "--rate",
    "rates",
    type=SHARE,
    multiple=True,
    help="A miss rate to bound; may be repeated.  [default: 0.01 0.02 0.05 0.1 0.2]",
)
@click.option("--keep-scores", is_flag=True, help="Leave the scores as they are; fit the rest.")
@click.option(
    "--miss-cost",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="What a missed unsafe row costs, in false alarms.",
)
@click.option("--per-category", is_flag=True, help="Fit a threshold for each category as well.")
@click.option("--category-rate", type=SHARE, help="Fit them to bound this miss rate, not by cost.")
@click.option("--allow-raise", is_flag=True, help="Let a category's threshold rise above 0.5.")
@click.option("--threads", type=click.IntRange(0), default=0, help="0: all cores.")
@click.option("--plot", type=FILE, help="A PNG of accuracy against confidence.")
@click.option("--out", type=FILE, help="Write the report here, as JSON.")
@click.option("--dry-run", is_flag=True, help="Leave the artifact as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@handle_errors
def calibrate(
    artifact: Path,
    data: tuple[Path, ...],
    rates: tuple[float, ...],
    plot: Path | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the scores of ARTIFACT to labelled rows, and bounds on what it misses.

    The rows must be like those that will be judged, and none that was trained on. Half of them set
    the scores; errors are measured, and bounds fitted, on the other half. Only artifact.json is
    written, so that the artifact has a new digest; a signature on the old one is removed.
    """
    import json

    from proguard_edge.calibration.run import Run, Settings
    from proguard_edge.export.extras import need
    from proguard_edge.train.sources import read_rows

    if (options["category_rate"] or options["allow_raise"]) and not options["per_category"]:
        raise click.UsageError("--category-rate and --allow-raise are for --per-category")
    if plot is not None:
        need("matplotlib", extra="train")
    rows = [row for path in data for row in read_rows(path)]
    settings = Settings(**options, **({"rates": rates} if rates else {}))
    run = Run(artifact, rows, settings, _tracked)
    if plot is not None:
        run.plot(plot)
    report = run.report(None if dry_run else run.write())
    if out is not None:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        out.write_text(text + "\n", encoding="utf-8")
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else _shown(report))


def _tracked(rows: Sequence[Row], name: str) -> Iterable[Row]:
    from rich.console import Console
    from rich.progress import track

    return track(rows, name, console=Console(stderr=True))


def _shown(report: dict[str, Any]) -> str:
    """The report for a person, one fact a line."""
    errors = ", ".join(f"{n} {name}" for name, n in report["errors"].items())
    lines = [f"{report['rows']} rows" + (f", left out as errors: {errors}" if errors else "")]
    for part, of in report["parts"].items():
        lines += _scores(part, of, report["scores_kept"])
        for bound in of["bounds"]:
            lines.append(
                f"  at most {bound['rate']:.4g} of unsafe rows score below "
                f"{bound['threshold']:.4g} (confidence {bound['confidence']:g}, "
                f"{bound['rows']} unsafe rows)"
            )
        lines += _categories(of)
    lines += report["notes"]
    digest = report["artifact"]["after"]
    return "\n".join([*lines, f"digest: {digest}" if digest else "the artifact was left as it is"])


def _scores(part: str, of: dict[str, Any], kept: bool) -> list[str]:
    before, after = of["reliability"]["before"], of["reliability"]["after"]
    head = f"{part}: scores as they were; errors on {after['rows']} rows"
    if not kept:
        fitted = of["calibration"]["after"]
        head = (
            f"{part}: bias {fitted['bias']:.3f}, temperature {fitted['temperature']:.3f}; "
            f"errors on {after['rows']} rows that they were not fitted to, before → after"
        )
    changes = {
        key: f"{before[key]:.4f}" + ("" if kept else f" → {after[key]:.4f}") for key in _ERRORS
    }
    return [head, *(f"  {name:<38}{changes[key]}" for key, name in _ERRORS.items())]


def _categories(of: dict[str, Any]) -> list[str]:
    begins = of["category_thresholds"].items()
    lines = [f"  {name} is unsafe from {threshold:.4g} on" for name, threshold in begins]
    if (effect := of["category_effect"]) is not None:
        lines.append(
            f"  with these, of {effect['rows']} rows: misses {effect['misses_at_common']} → "
            f"{effect['misses']}, false alarms {effect['false_alarms_at_common']} → "
            f"{effect['false_alarms']}"
        )
    return lines
