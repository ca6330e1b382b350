"""A command whose packages are not here runs in the environment of its stage, if there is one."""

from __future__ import annotations

import os
import sys

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.errors import InputError
from proguard_edge.stages import STAGES

# Commands that judge, and what decides how: it must not be lost on the way.
JUDGING = ("scan", "serve", "eval")
JOINING = ("ocr", "hf")
# An environment that lost its packages must not leave with 1, which means "unsafe".
BEGIN = """
import sys
try:
    from proguard_edge.cli import main
except ImportError as error:
    print(f"error: {sys.prefix}: {error}: {sys.argv[1]}", file=sys.stderr)
    sys.exit(3)
del sys.argv[1]
main(prog_name="proguard-edge")
"""


@handle_errors
def go_where_it_runs(stage: str, arguments: list[str]) -> None:
    """Become that command in the stage's environment; returns where that is not needed, or where
    there is none: the command then says what it lacks.

    Exit code 3 where the environment must not be used, or would judge otherwise than this one.
    """
    from proguard_edge.environments.lookup import FOLDER, INSIDE, find, root

    if INSIDE in os.environ or STAGES[stage].is_here():
        return
    environment = find(stage)
    if environment is None:
        return
    made = environment.made
    if arguments[0] in JUDGING:
        lost = [name for name in JOINING if STAGES[name].is_here() and name not in made.additions]
        if lost:
            joined = " ".join(f"--with {name}" for name in (*made.additions, *lost))
            raise InputError(
                f"the environment of {stage} lacks {' and '.join(lost)}, which is here, and would "
                f"judge otherwise: proguard-edge env create {stage} {joined}"
            )
    click.echo(f"running in {environment.folder}", err=True)
    variables = {**os.environ, INSIDE: stage, FOLDER: str(root())}
    # -P: no module of the current folder takes the place of one of ours.
    command = [environment.python, "-P", "-c", BEGIN, f"{made.command} makes it anew", *arguments]
    sys.stdout.flush()
    os.execve(environment.python, command, variables)
