"""`proguard-edge policy`: look at a policy, check it, make one from another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from proguard_edge.cli.exit import handle_errors

if TYPE_CHECKING:
    from proguard_edge.policy import Policy

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def policy() -> None:
    """Show, check, import and cut policy files."""


@policy.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@handle_errors
def show(file: Path | None, as_json: bool) -> None:
    """Show the policy in FILE, or the default policy."""
    found = _load(file)
    if as_json:
        _print_json(found)
    else:
        _print_tree(found)


@policy.command()
@click.argument("file", type=_FILE)
@handle_errors
def validate(file: Path) -> None:
    """Check the policy in FILE; exit code 3 and the reason if it is not valid."""
    click.echo(f"ok: {_summary(_load(file))}")


@policy.command("import")
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="The policy file to write.")
@click.option("--name", default="reference", show_default=True, help="Name of the new policy.")
@handle_errors
def import_(file: Path, output: Path, name: str) -> None:
    """Turn a taxonomy FILE in the layout of the ProGuard release into a policy file."""
    from proguard_edge.policy import Policy

    _write(Policy.import_reference(file, name), output)


@policy.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--keep", help="Ids to keep, for example C8,C9S1; C8 alone keeps all of C8.")
@click.option("--drop", help="Ids to leave out; C1 takes its subcategories along.")
@click.option("-o", "--output", type=_FILE, required=True, help="The policy file to write.")
@handle_errors
def subset(file: Path | None, keep: str | None, drop: str | None, output: Path) -> None:
    """Write a smaller policy: the one in FILE (or the default) with some categories only."""
    if (keep is None) == (drop is None):
        raise click.UsageError("give either --keep or --drop")
    found = _load(file)
    cut = found.subset(_ids(keep)) if keep is not None else found.without(_ids(drop or ""))
    _write(cut, output)


def _ids(listed: str) -> list[str]:
    ids = [item.strip() for item in listed.split(",") if item.strip()]
    if not ids:
        raise click.UsageError("the list of ids is empty")
    return ids


def _load(file: Path | None) -> Policy:
    from proguard_edge.policy import Policy

    return Policy.default() if file is None else Policy.load(file)


def _write(found: Policy, output: Path) -> None:
    from proguard_edge.errors import PolicyError

    try:
        output.write_text(found.to_yaml(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise PolicyError(f"{output}: cannot be written: {error.strerror or error}") from None
    click.echo(f"{output}: {_summary(found)}")


def _summary(found: Policy) -> str:
    parents = sum(category.parent is None for category in found.categories)
    children = len(found.categories) - parents
    return (
        f"{found.name} {found.version}, {parents} categories, {children} subcategories, "
        f"digest {found.digest()[:12]}"
    )


def _print_json(found: Policy) -> None:
    import json
    from dataclasses import asdict

    content = {**asdict(found), "digest": found.digest()}
    click.echo(json.dumps(content, ensure_ascii=False, indent=2))


def _print_tree(found: Policy) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    tree = branch = Tree(Text(_summary(found)), guide_style="dim")
    for category in found.categories:
        # Text, not markup: a policy may hold square brackets.
        style = "bold" if category.parent is None else ""
        label = Text.assemble((f"{category.id} ", "cyan"), (category.name, style))
        if category.description:
            label.append(f"\n{category.description}", "dim")
        if category.parent is None:
            branch = tree.add(label)
        else:
            branch.add(label)
    Console().print(tree)
