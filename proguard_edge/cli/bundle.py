"""`proguard-edge bundle`: make, check, compare and install what crosses an air gap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE
from proguard_edge.errors import InputError
from proguard_edge.stages import STAGES, TARGETS

if TYPE_CHECKING:
    from proguard_edge.bundle.verify import Report

NEEDS = "needs {}: pip install 'proguard-edge[bundle]'"


@click.group()
def bundle() -> None:
    """Carry a working guard across an air gap in one signed file."""


def key_options(command: Any) -> Any:
    """`--public-key` or `--unsigned`, as one text or None."""
    for option in (
        click.option("--unsigned", is_flag=True, help="Do not ask who made it."),
        click.option("--public-key", type=FILE, help="Of the maker, PEM."),
    ):
        command = option(command)
    return command


def _key(public_key: Path | None, unsigned: bool) -> str | None:
    from proguard_edge.bundle.script import key_of

    if (public_key is None) != unsigned:
        raise click.UsageError("give --public-key, or --unsigned")
    return key_of(public_key)


@bundle.command()
@click.option("--private", type=FILE, required=True, help="The key that signs; keep it offline.")
@click.option("--public", type=FILE, required=True, help="The key that checks; hand it out.")
@handle_errors
def keygen(private: Path, public: Path) -> None:
    """Make a pair of keys (P-256, PEM)."""
    try:
        from proguard_edge.signing import keygen as make

        make(private, public)
    except ModuleNotFoundError as error:
        raise InputError(NEEDS.format(error.name)) from None


@bundle.command()
@click.option("-o", "--out", type=FILE, required=True, help="The bundle to write.")
@click.option("--artifact", "artifacts", type=FILE, multiple=True, help="May be repeated.")
@click.option("--policy", "policies", type=FILE, multiple=True, help="May be repeated.")
@click.option(
    "--stage",
    "stages",
    type=click.Choice(list(STAGES)),
    multiple=True,
    help="May be repeated; `runtime` is always there.",
)
@click.option("--target", type=click.Choice(TARGETS), default="cpu", show_default=True)
@click.option("--machine", type=click.Choice(["x86_64", "aarch64"]), default="x86_64")
@click.option("--python", default="3.11", show_default=True, help="Python of the other side.")
@click.option("--name", default="proguard-edge", show_default=True)
@click.option(
    "--release",
    type=click.IntRange(1),
    required=True,
    help="Grows with every bundle: an older one does not replace a newer.",
)
@click.option("--key", type=FILE, help="Private key.  [default: not signed]")
@click.option("--project", type=FILE, default=".", show_default=True, help="Checkout, or wheel.")
@click.option("--locks", type=FILE, help="Folder of lock files.  [default: those that came along]")
@click.option("--wheelhouse", type=FILE, help="Folder of wheels; without it pip downloads them.")
@click.option("--max-part-size", type=click.IntRange(1), help="MB; splits into volumes.")
@handle_errors
def create(
    out: Path,
    artifacts: tuple[Path, ...],
    policies: tuple[Path, ...],
    stages: tuple[str, ...],
    key: Path | None,
    project: Path,
    locks: Path | None,
    max_part_size: int | None,
    **plan: Any,
) -> None:
    """Make a bundle, and beside it the script that opens it with nothing but Python."""
    try:
        from proguard_edge.bundle.create import Plan, create
        from proguard_edge.requirements import LOCKS

        made = create(
            Plan(
                artifacts=artifacts,
                policies=policies,
                stages=tuple(name for name in STAGES if name in {"runtime", *stages}),
                project=project,
                locks=locks or LOCKS,
                max_part_bytes=max_part_size * 1_000_000 if max_part_size else None,
                **plan,
            ),
            out,
            key,
            lambda line: click.echo(line, err=True),
        )
    except ModuleNotFoundError as error:
        raise InputError(NEEDS.format(error.name)) from None
    for path in made:
        click.echo(f"{path.stat().st_size:>13,}  {path}")
    script = hashlib.sha256(made[-1].read_bytes()).hexdigest()
    click.echo(f"sha256 of {made[-1].name}: {script}")


@bundle.command()
@click.argument("file", type=FILE)
@key_options
@click.option("--json", "as_json", is_flag=True)
@handle_errors
def verify(file: Path, public_key: Path | None, unsigned: bool, as_json: bool) -> None:
    """Check every byte of a bundle. Exit code 0: as it was signed. 3: not."""
    import json

    from proguard_edge.bundle.script import verified
    from proguard_edge.bundle.verify import verify as check

    key = _key(public_key, unsigned)
    with _progress(file) as report:
        manifest = check(file, key, report)
    if as_json:
        click.echo(json.dumps(manifest.fields))
        return
    click.echo(verified(manifest, unsigned))


@bundle.command()
@click.argument("file", type=FILE)
@key_options
@click.option("--prefix", type=FILE, required=True, help="Folder to install into.")
@click.option("--allow-downgrade", is_flag=True)
@handle_errors
def install(
    file: Path, public_key: Path | None, unsigned: bool, prefix: Path, allow_downgrade: bool
) -> None:
    """Verify a bundle, install it beside the version in use, try it, put it in use."""
    from proguard_edge.bundle.install import install as put
    from proguard_edge.bundle.script import next_commands

    key = _key(public_key, unsigned)
    with _progress(file) as report:
        done = put(file, key, prefix, downgrade=allow_downgrade, say=_say, report=report)
    click.echo(next_commands(prefix, done))


@bundle.command("list")
@click.option("--prefix", type=FILE, required=True)
@handle_errors
def list_(prefix: Path) -> None:
    """The versions in a prefix; * is in use."""
    from proguard_edge.bundle.script import listed

    for line in listed(prefix):
        click.echo(line)


@bundle.command()
@click.option("--prefix", type=FILE, required=True)
@handle_errors
def rollback(prefix: Path) -> None:
    """Go back to the version before."""
    from proguard_edge.bundle.install import rollback as back

    click.echo(f"release {back(prefix).manifest.release} is in use again")


@bundle.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--json", "as_json", is_flag=True)
@handle_errors
def diff(old: Path, new: Path, as_json: bool) -> None:
    """What NEW changes in comparison with OLD: packages, artifacts, policies, licences.

    Looks at the lists alone; `bundle verify` checks that a list is true.
    """
    import json

    from proguard_edge.bundle.verify import changes

    found = changes(old, new)
    if as_json:
        click.echo(json.dumps(found))
    else:
        for kind, paths in found.items():
            for path in paths:
                click.echo(f"{kind:<8} {path}")


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextmanager
def _progress(file: Path) -> Iterator[Report]:
    """A bar over the bytes of a bundle; gives the function that it is told by."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from proguard_edge.bundle.archive import size_of

    columns = (TextColumn("checking"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size_of(file))
        yield lambda _path, count: progress.advance(task, count)
