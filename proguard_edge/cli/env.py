"""`proguard-edge env`: environments of stages that do not run where the runtime does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from proguard_edge.cli.exit import handle_errors, printable
from proguard_edge.cli.options import FILE
from proguard_edge.stages import ALL, STAGES, TARGETS

NAMES = ", ".join(f"{stage.name} ({stage.about})" for stage in ALL)


@click.group()
def env() -> None:
    """Environments for stages, made of packages that are pinned by hashes."""


@env.command(epilog=f"Stages: {NAMES}.")
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option(
    "--with",
    "additions",
    type=click.Choice([stage.name for stage in ALL if not stage.apart]),
    multiple=True,
    help="Another stage in the same environment; may be repeated.",
)
@click.option("--target", type=click.Choice(TARGETS), default="cpu", show_default=True)
@click.option(
    "--wheelhouse",
    type=FILE,
    help="Folder of wheels; nothing is downloaded.  [default: pip's index]",
)
@click.option("--extra-index", "indexes", metavar="URL", multiple=True, help="Beside pip's index.")
@click.option("--python", default=sys.executable, help="Interpreter to make it with.")
@click.option("--locks", type=FILE, help="Folder of lock files.  [default: those that came along]")
@handle_errors
def create(locks: Path | None, **plan: Any) -> None:
    """Make the environment of STAGE and print where it is.

    The commands of scan, serve, bench, export and train run in theirs by themselves from then on;
    export finds gptq and edgellm, and `train grpo` finds grpo. Of the others call
    `FOLDER/bin/proguard-edge`.
    """
    from proguard_edge.environments import Plan
    from proguard_edge.environments import create as make

    if locks is not None:
        plan["locks"] = locks
    click.echo(make(Plan(**plan), lambda line: click.echo(line, err=True)))


@env.command("list")
@handle_errors
def list_() -> None:
    """The environments that commands find, and whether they may be used."""
    from proguard_edge.environments import Environment, found

    for stage, environment in found().items():
        if isinstance(environment, Environment):
            name = "+".join((stage, *environment.made.additions))
            click.echo(f"{name:<16} {environment.made.target:<7} {environment.folder}")
        else:
            click.echo(f"{stage:<16} not to be used: {printable(str(environment))}")
