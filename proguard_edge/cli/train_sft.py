"""`proguard-edge train sft`: supervised fine-tuning to verdicts without reasoning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import (
    FILE,
    hide_option,
    policy_named,
    response_line_of,
    template_named,
)


@click.command()
@click.option("--model", type=FILE, required=True, help="Checkpoint folder to begin with.")
@click.option(
    "--data", type=FILE, required=True, multiple=True, help="Labelled rows; may be repeated."
)
@click.option("--out", type=FILE, required=True, help="Run folder; run again to resume.")
@click.option("--steps", type=click.IntRange(1), required=True)
@click.option("--batch", type=click.IntRange(1), default=4, show_default=True)
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rate", type=float, default=1e-5, show_default=True, help="Peak learning rate.")
@click.option(
    "--part",
    type=click.Choice(["all", "decoder", "vision"]),
    default="decoder",
    show_default=True,
    help="Which weights learn.",
)
@click.option("--frozen-layers", type=click.IntRange(0), default=0, help="Lower layers that rest.")
@click.option("--policy", default="default", show_default=True, metavar="FILE|default")
@click.option("--template", default="compact", show_default=True, metavar="FILE|NAME")
@click.option(
    "--augment", is_flag=True, help="Shuffle and hide categories row by row; teaches free names."
)
@hide_option
@click.option("--total", type=click.IntRange(1), help="Draw so many rows, modalities balanced.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON lines.")
@handle_errors
def sft(
    model: Path,
    data: tuple[Path, ...],
    out: Path,
    policy: str,
    template: str,
    augment: bool,
    hide: float,
    total: int | None,
    seed: int,
    as_json: bool,
    part: str,
    **settings: Any,
) -> None:
    """Fine-tune a Qwen2.5-VL checkpoint on labelled rows, without reasoning.

    Writes OUT/checkpoint, which `proguard-edge export` turns into an artifact, and OUT/log.jsonl.
    """
    import json

    from proguard_edge.export.extras import need

    need("torch", "transformers", "accelerate", extra="train")
    from proguard_edge.train.augment import Hiding
    from proguard_edge.train.sampling import balance
    from proguard_edge.train.sft import Settings, builder_of, fine_tune
    from proguard_edge.train.sources import read_rows

    hiding = Hiding(hide, hide) if augment else None
    builder = builder_of(
        model,
        template_named(template),
        policy_named(policy),
        hiding=hiding,
        seed=seed,
        response_line=response_line_of(template),
    )
    rows = [row for path in data for row in read_rows(path)]
    rows = [row for row in rows if builder.usable(row)]
    if total is not None:
        rows = balance(rows, total, seed)

    def report(line: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(line))
        else:
            click.echo(
                f"step {line['step']}/{settings['steps']}  loss {line['loss']:.4f}  "
                f"{line['tokens_per_second']:.0f} tokens/s",
                err=True,
            )
            sys.stderr.flush()

    run = Settings(train=part, seed=seed, **settings)
    folder = fine_tune(model, rows, builder, run, out, report)
    click.echo(json.dumps({"checkpoint": str(folder), "rows": len(rows)}) if as_json else folder)
