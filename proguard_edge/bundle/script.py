"""The script beside a bundle: `python3 proguard-edge-bundle.pyz verify|install|list|rollback`.

It needs nothing but Python's standard library. Whoever carries it across the gap must trust it as
they trust the public key: compare its SHA-256 with the one that the maker tells.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from proguard_edge.bundle.install import Installed, current, install, rollback, versions
from proguard_edge.bundle.verify import Manifest, verify
from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.signature import read_key


def main() -> None:
    """Exit codes: 0 done, 2 usage, 3 error."""
    options = _parser().parse_args()
    try:
        options.run(options)
    except ProGuardEdgeError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}")
    except KeyboardInterrupt:
        _fail("stopped")


def _fail(message: str) -> None:
    shown = "".join(char if char.isprintable() else "\ufffd" for char in message)
    print(f"error: {shown}", file=sys.stderr)
    sys.exit(3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proguard-edge-bundle.pyz")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, what in (
        ("verify", _verify, "check every byte of a bundle"),
        ("install", _install, "verify a bundle, install it, put it in use"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("bundle", type=Path)
        key = command.add_mutually_exclusive_group(required=True)
        key.add_argument("--public-key", type=Path, help="of the maker, PEM")
        key.add_argument("--unsigned", action="store_true", help="do not ask who made it")
        command.set_defaults(run=run)
        if run is _install:
            command.add_argument("--prefix", type=Path, required=True)
            command.add_argument("--allow-downgrade", action="store_true")
    for name, run, what in (
        ("list", _list, "the versions in a prefix"),
        ("rollback", _rollback, "go back to the version before"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--prefix", type=Path, required=True)
        command.set_defaults(run=run)
    return parser


def key_of(path: Path | None) -> str | None:
    """The text of a key file; None where no signature is asked for. Raises InputError."""
    return None if path is None else read_key(path)


def _verify(options: argparse.Namespace) -> None:
    print(verified(verify(options.bundle, key_of(options.public_key)), options.unsigned))


def verified(manifest: Manifest, unsigned: bool) -> str:
    """What is said of a bundle in which every byte was checked."""
    return (
        f"{manifest.name}, release {manifest.release}: {len(manifest.files)} files, every byte as "
        f"listed, {'unsigned' if unsigned else 'signed by this key'}"
    )


def _install(options: argparse.Namespace) -> None:
    done = install(
        options.bundle,
        key_of(options.public_key),
        options.prefix,
        downgrade=options.allow_downgrade,
        say=print,
    )
    print(next_commands(options.prefix, done))


def next_commands(prefix: Path, done: Installed) -> str:
    """What to type after an install, as a shell takes it."""
    command = [str(prefix.absolute() / "bin" / "proguard-edge")]
    folder = prefix.absolute() / "current" / "artifacts"
    artifact = [str(folder / name) for name in done.manifest.artifacts[:1]]
    named = ["--artifact", *artifact] if artifact else []
    return (
        f"release {done.manifest.release} is in use. Go on with\n\n"
        f"    {shlex.join([*command, 'doctor', *artifact])}\n"
        f"    {shlex.join([*command, 'moderate', *named, '--text', 'How do I bake bread?'])}"
    )


def listed(prefix: Path) -> list[str]:
    """A line for each version, * for the one in use."""
    used = current(prefix)
    return [
        f"{'*' if used is not None and used.folder == each.folder else ' '} "
        f"release {each.manifest.release}  {each.manifest.name}  {each.folder}"
        for each in versions(prefix)
    ]


def _list(options: argparse.Namespace) -> None:
    for line in listed(options.prefix):
        print(line)


def _rollback(options: argparse.Namespace) -> None:
    print(f"release {rollback(options.prefix).manifest.release} is in use again")
