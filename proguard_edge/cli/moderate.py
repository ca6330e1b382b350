"""`proguard-edge moderate`: one verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from proguard_edge.cli.exit import SAFE, UNSAFE, handle_errors, printable
from proguard_edge.cli.options import FILE, guard_options, load_guard, server_options
from proguard_edge.request import read_text

if TYPE_CHECKING:
    from proguard_edge.verdict import Judgement, Verdict

BAR = 20


@click.command()
@click.argument("source", type=click.Choice(["-"]), required=False, metavar="[-]")
@click.option("--text", help="The user's text.")
@click.option("--text-file", type=FILE, help="A file with the user's text.")
@click.option("--image", "images", type=FILE, multiple=True, help="An image; may be repeated.")
@click.option("--response", help="The agent's response to judge as well.")
@guard_options
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one line of JSON.")
@handle_errors
def moderate(
    source: str | None,
    text: str | None,
    text_file: Path | None,
    images: tuple[Path, ...],
    response: str | None,
    mode: Literal["verdict", "reason"],
    as_json: bool,
    **loading: Any,
) -> None:
    """Judge one text, image or conversation; `-` reads the text from stdin.

    Exit code 0: safe. 1: the request or the response is unsafe. 2: usage. 3: error, no verdict.
    """
    if sum(x is not None for x in (source, text, text_file)) > 1:
        raise click.UsageError("give one of --text, --text-file and -")
    if source is None and text is None and text_file is None and not images and response is None:
        raise click.UsageError(
            "nothing to judge: give --text, --text-file, -, --image or --response"
        )
    if source is not None or text_file is not None:
        text = read_text(text_file)
    guard, policy = load_guard(**loading)
    with guard:
        verdict = guard.moderate(text, images or None, response, policy=policy, mode=mode)
    if as_json:
        click.echo(verdict.to_json())
    else:
        _show(verdict, guard.artifact.name)
    sys.exit(UNSAFE if verdict.unsafe else SAFE)


def _show(verdict: Verdict, name: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(_line("request", verdict.request))
    if verdict.response is not None:
        console.print(_line("response", verdict.response))
    if (risk := verdict.category) is not None:
        where = risk.id if risk.in_policy else "not in the policy"
        console.print(Text.assemble(("category  ", "dim"), printable(risk.name), f"  ({where})"))
    if verdict.reasoning:
        thoughts = "\n".join(map(printable, verdict.reasoning.splitlines()))
        console.print(Text.assemble(("reasoning ", "dim"), thoughts))
    looked_at = ", ".join(verdict.evaluated).replace("_", " ")
    milliseconds = verdict.timings_ms.get("total", 0.0)
    footer = f"looked at {looked_at} · {milliseconds:.0f} ms · {name} {verdict.artifact[:12]}"
    console.print(Text(footer, style="dim"))


def _line(part: str, judgement: Judgement) -> object:
    from rich.text import Text

    filled = round(judgement.score * BAR)
    colour = "red" if judgement.label == "unsafe" else "green"
    return Text.assemble(
        (f"{part:<10}", "dim"),
        (f"{judgement.label:<7}", f"bold {colour}"),
        ("█" * filled, colour),
        ("░" * (BAR - filled), "dim"),
        f" {judgement.score:.3f} unsafe",
    )
