"""`proguard-edge doctor`: is this machine fit to judge with an artifact?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from proguard_edge.cli.exit import ERROR, handle_errors, printable
from proguard_edge.cli.options import FILE

if TYPE_CHECKING:
    from proguard_edge.doctor import Diagnosis, Finding

STYLES = {"problem": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}
WIDTH = max(map(len, STYLES)) + 2
CHECK = 11


@click.command()
@click.argument("artifact", type=FILE, required=False)
@click.option("--expect-offline", is_flag=True, help="A way out of this machine is a warning.")
@click.option(
    "--public-key", type=FILE, help="PEM; who must have signed ARTIFACT, and the bundle installed."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@handle_errors
def doctor(
    artifact: Path | None, expect_offline: bool, public_key: Path | None, as_json: bool
) -> None:
    """Examine this machine, this installation and ARTIFACT (default: the starter).

    Two texts are judged, nothing is sent anywhere. Exit code 0: no problem, warnings allowed.
    3: at least one problem. What could not be checked is a problem.
    """
    from proguard_edge.doctor import diagnose
    from proguard_edge.signature import read_key
    from proguard_edge.starter import STARTER

    key = None if public_key is None else read_key(public_key)
    with _progress() as begins:
        found = diagnose(
            artifact or STARTER, expect_offline=expect_offline, public_key=key, begins=begins
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    elif _can_draw(sys.stdout):
        _show(found)
    else:
        click.echo("\n".join(_lines(found)))
    if not found.fit:
        sys.exit(ERROR)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being examined, on a terminal only."""
    if not _can_draw(sys.stderr):
        yield lambda _: None
        return
    from proguard_edge.cli.console import stderr_console

    with stderr_console().status("") as status:
        yield lambda name: status.update(f"examining: {name}")


def _can_draw(stream: TextIO) -> bool:
    # A missing library is for this command to tell, not to die of.
    return stream.isatty() and find_spec("rich") is not None


def _lines(found: Diagnosis) -> Iterator[str]:
    """A line for each finding, the worst first, and one for its remedy."""
    for finding in _sorted(found):
        yield f"{finding.state:<{WIDTH}}{finding.check:<{CHECK}}{printable(finding.found)}"
        if finding.remedy:
            yield f"{'':<{WIDTH}}{'':<{CHECK}}→ {printable(finding.remedy)}"
    yield _summary(found)


def _show(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(width=WIDTH - 1)
    table.add_column(width=CHECK - 1)
    table.add_column()
    last = ("", "")
    for finding in _sorted(found):
        if last[0] not in ("", finding.state):
            table.add_row()
        said = Text(printable(finding.found))
        if finding.remedy:
            said.append(f"\n→ {printable(finding.remedy)}", "dim")
        state = "" if finding.state == last[0] else finding.state
        name = "" if (finding.state, finding.check) == last else finding.check
        table.add_row(Text(state, STYLES[finding.state]), Text(name, "dim"), said)
        last = (finding.state, finding.check)
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"\n{_summary(found)}", "bold green" if found.fit else "bold red"))


def _sorted(found: Diagnosis) -> Iterator[Finding]:
    from proguard_edge.doctor import STATES

    for state in STATES:
        yield from found.of(state)


def _summary(found: Diagnosis) -> str:
    problems, warnings = len(found.of("problem")), len(found.of("warning"))
    name = printable(found.name or str(found.folder))
    counted = f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}, {found.seconds:.1f} s"
    return f"{'fit' if found.fit else 'not fit'} to judge with {name}: {counted}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
