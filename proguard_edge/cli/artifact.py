"""`proguard-edge artifact`: what it is, whose it is, and whether its bytes are as listed."""

from __future__ import annotations

from pathlib import Path

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE, public_key_option


@click.group()
def artifact() -> None:
    """Look at an artifact, sign it, or verify its bytes. Without FOLDER: the starter."""


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
        "signature": "artifact.sig, not checked here" if found.signed else "none",
        "size": f"{total / 1e6:.1f} MB in {len(found.files)} files",
    }
    for name, value in facts.items():
        click.echo(f"{name:<10} {value}")
    for name, entry in found.files.items():
        click.echo(f"  {entry.size:>12,}  {name}")


@artifact.command()
@click.argument("folder", type=FILE, required=False)
@click.option("--digest", help="The digest that the artifact must have.")
@public_key_option
@handle_errors
def verify(folder: Path | None, digest: str | None, public_key: Path | None) -> None:
    """Read every byte; exit code 3 names the first file that was altered or is missing.

    With --public-key also whether it is signed by that key.
    """
    from proguard_edge.artifact import Artifact, check_digests, check_signature
    from proguard_edge.signature import read_key
    from proguard_edge.starter import STARTER

    found = Artifact.open(folder or STARTER)
    if public_key is not None:
        check_signature(found, read_key(public_key))
    check_digests(found, digest)
    whose = "" if public_key is None else ", signed by this key"
    click.echo(f"ok: {found.name}, {len(found.files)} files, digest {found.digest}{whose}")


@artifact.command()
@click.argument("folder", type=FILE)
@click.option(
    "--key", type=FILE, required=True, help="Private key, PEM; `bundle keygen` makes a pair."
)
@handle_errors
def sign(folder: Path, key: Path) -> None:
    """Check every byte and sign FOLDER: writes artifact.sig, the digest stays. Extra `bundle`."""
    from proguard_edge.artifact import sign_artifact
    from proguard_edge.export.extras import need

    need("model_signing", "cryptography", extra="bundle")
    found = sign_artifact(folder, key)
    click.echo(f"signed: {found.name}, digest {found.digest}")
