"""`proguard-edge train`: make or improve a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import TEMPLATES, hide_option, prompting_of
from proguard_edge.cli.train_distil import distil
from proguard_edge.cli.train_rows import rows
from proguard_edge.cli.train_sft import sft

if TYPE_CHECKING:
    from proguard_edge.train.rows import Row
    from proguard_edge.train.verl.launch import Run

PROFILES = ("cpu-smoke", "gpu-24g", "gpu-80g", "8x80g")

_folder = click.Path(path_type=Path, file_okay=False)


@click.group()
def train() -> None:
    """Make or improve a checkpoint. Nothing is read from the network."""


train.add_command(rows)
train.add_command(sft)
train.add_command(distil)


@train.command()
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    required=True,
    help="The machine, and what is done on it; 8x80g is the published run.",
)
@click.option("--model", type=_folder, required=True, help="The checkpoint to start from.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Labelled rows: a file, or a folder of files of one kind.",
)
@click.option("--out", type=_folder, required=True, help="Of the run; a stopped run goes on.")
@click.option("--steps", type=click.IntRange(1), help="[default: one pass over the data]")
@click.option(
    "--similarity",
    type=_folder,
    help="Folder of a sentence-embedding model, for free category names (the paper's: BGE-M3).",
)
@click.option(
    "--validation",
    type=click.Path(path_type=Path),
    help="Rows to validate on.  [default: rows held out from --data]",
)
@click.option("--rows", type=click.IntRange(1), help="Draw so many, modalities in balance.")
@click.option(
    "--validation-rows", type=click.IntRange(1), default=300, show_default=True, help="At most."
)
@click.option(
    "--passes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often each row is used, each time under another shuffled policy.",
)
@click.option("--save-every", type=click.IntRange(1), help="Steps between checkpoints.")
@click.option("--policy", default="default", show_default=True, metavar="FILE|default")
@click.option(
    "--template", default="proguard", show_default=True, metavar=f"FILE|{'|'.join(TEMPLATES)}"
)
@click.option(
    "--reasoning/--no-reasoning",
    default=True,
    show_default=True,
    help="Whether the answer must begin with reasoning.",
)
@hide_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of rows and policies.")
@click.option(
    "--python",
    envvar="PROGUARD_EDGE_VERL_PYTHON",
    help="Interpreter with verl.  [default: that of `env create grpo`, else this one]",
)
@click.option("--set", "extra", multiple=True, metavar="KEY=VALUE", help="An override for verl.")
@click.option("--dry-run", is_flag=True, help="Print the command for verl and do nothing.")
@handle_errors
def grpo(
    profile: str,
    model: Path,
    data: Path,
    out: Path,
    steps: int | None,
    similarity: Path | None,
    validation: Path | None,
    rows: int | None,
    validation_rows: int,
    passes: int,
    save_every: int | None,
    policy: str,
    template: str,
    reasoning: bool,
    hide: float,
    seed: int,
    python: str | None,
    extra: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Reinforcement learning by GRPO on verl, under policies that change from row to row.

    The trained checkpoint is OUT/checkpoint; `proguard-edge export` makes an artifact of it. The
    same command goes on with a run that was stopped.
    """
    from rich.console import Console

    from proguard_edge.train.verl import launch

    if similarity is None:
        raise click.UsageError("--similarity: give the folder of a sentence-embedding model")
    run = _run(
        profile,
        model,
        policy,
        template,
        reasoning,
        hide,
        extra,
        out=out.absolute(),
        similarity=similarity.absolute(),
        python=python,
        steps=steps,
        save_every=save_every,
        seed=seed,
        passes=passes,
    )
    if dry_run:
        click.echo(launch.dry_run(run))
        return
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    training, held_out = _rows(data, validation, rows, validation_rows, seed)
    checkpoint = launch.train(run, training, held_out, console.print)
    click.echo(os.fspath(checkpoint))


def _run(
    profile: str,
    model: Path,
    policy: str,
    template: str,
    reasoning: bool,
    hide: float,
    extra: tuple[str, ...],
    *,
    python: str | None,
    **choices: Any,
) -> Run:
    from proguard_edge.environments import interpreter
    from proguard_edge.train.verl.launch import Run
    from proguard_edge.train.verl.overrides import Profile

    loaded = Profile.load(profile)
    most = int(loaded.value("data.max_prompt_length", extra))
    prompting = prompting_of(model, template, policy, reasoning, hide, max_tokens=most)
    return Run(
        profile=loaded,
        prompting=prompting,
        reasoning=reasoning,
        extra=extra,
        python=interpreter("grpo", python),
        **choices,
    )


def _rows(
    data: Path, validation: Path | None, total: int | None, most: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and to validate on."""
    from proguard_edge.train.sampling import balance
    from proguard_edge.train.sources import read_rows

    found = list(read_rows(data))
    held_out = list(read_rows(validation)) if validation else []
    if not validation:
        held_out = [row for row in found if row.in_held_out()] or found[:1]
        chosen = {row.id for row in held_out}
        found = [row for row in found if row.id not in chosen]
    if total is not None:
        found = balance(found, total, seed)
    return found, balance(held_out, most, seed)
