"""A command whose packages are not here runs in the environment of its stage, if there is one."""

from __future__ import annotations

import os
import sys

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.stages import STAGES


@handle_errors
def go_where_it_runs(stage: str, arguments: list[str]) -> None:
    """Become that command in the stage's environment; returns where that is not needed, or where
    there is none: the command then says what it lacks."""
    from proguard_edge.environments.lookup import FOLDER, INSIDE, find, root

    if INSIDE in os.environ or STAGES[stage].is_here():
        return
    environment = find(stage)
    if environment is None:
        return
    click.echo(f"running in {environment.folder}", err=True)
    variables = {**os.environ, INSIDE: stage, FOLDER: str(root())}
    command = [environment.python, "-m", "proguard_edge", *arguments]
    sys.stdout.flush()
    os.execve(environment.python, command, variables)
