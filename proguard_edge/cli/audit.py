"""`proguard-edge audit`: verify an audit log."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proguard_edge.cli.exit import ERROR, SAFE, handle_errors
from proguard_edge.cli.options import FILE


@click.group()
def audit() -> None:
    """Look at the audit log of a server."""


@audit.command()
@click.argument("folder", type=FILE)
@click.option("--key", "key_file", type=FILE, help="The log's key.  [default: FOLDER/audit.key]")
@click.option("--head", "noted", type=FILE, help="A head.json that was put away earlier.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@handle_errors
def verify(folder: Path, key_file: Path | None, noted: Path | None, as_json: bool) -> None:
    """Find every edited, missing or misplaced line of FOLDER.

    Exit code 0: it holds together. 3: it does not, or cannot be read.
    """
    import json

    from proguard_edge.serve.audit_chain import read_head
    from proguard_edge.serve.audit_verify import verify as faults_of

    known = read_head(noted) if noted is not None else None
    faults = list(faults_of(folder, key_file, known))
    if as_json:
        click.echo(json.dumps({"faults": faults}))
    else:
        for fault in faults:
            click.echo(fault)
        if not faults:
            click.echo("every line follows from the one before it")
    sys.exit(ERROR if faults else SAFE)
