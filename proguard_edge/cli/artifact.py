"""`proguard-edge artifact`: what an artifact is, and whether its bytes are the ones it lists."""

from __future__ import annotations

from pathlib import Path

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE


@click.group()
def artifact() -> None:
    """Look at an artifact, or verify its bytes. Without FOLDER: the starter."""


@artifact.command()
@click.argument("folder", type=FILE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@handle_errors
def show(folder: Path | None, as_json: bool) -> None:
    """Show engine, precision, abilities, provenance and files."""
    import json

    from proguard_edge.artifact import Artifact
    from proguard_edge.starter import STARTER

    found = Artifact.open(folder or STARTER)
    if as_json:
        click.echo(json.dumps(found.manifest, indent=1, ensure_ascii=False))
        return
    total = sum(entry.size for entry in found.files.values())
    facts = {
        "name": found.name,
        "digest": found.digest,
        "engine": f"{found.engine}, {found.precision}",
        "reads": ", ".join(found.modalities),
        "modes": ", ".join(found.modes),
        "languages": ", ".join(found.languages) or "not stated",
        "licence": str(found.manifest.get("licence", "not stated")),
        "size": f"{total / 1e6:.1f} MB in {len(found.files)} files",
    }
    for name, value in facts.items():
        click.echo(f"{name:<10} {value}")
    for name, entry in found.files.items():
        click.echo(f"  {entry.size:>12,}  {name}")


@artifact.command()
@click.argument("folder", type=FILE, required=False)
@click.option("--digest", help="The digest that the artifact must have.")
@handle_errors
def verify(folder: Path | None, digest: str | None) -> None:
    """Read every byte; exit code 3 names the first file that was altered or is missing."""
    from proguard_edge.artifact import Artifact, check_digests
    from proguard_edge.starter import STARTER

    found = Artifact.open(folder or STARTER)
    check_digests(found, digest)
    click.echo(f"ok: {found.name}, {len(found.files)} files, digest {found.digest}")
