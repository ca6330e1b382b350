"""`proguard-edge export`: make artifacts from a checkpoint folder, and measure what they lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import TEMPLATES, policy_named, response_line_of, template_named

if TYPE_CHECKING:
    from proguard_edge.export.folder import Contents
    from proguard_edge.export.gate import Gate
    from proguard_edge.export.pipeline import Done
    from proguard_edge.export.recipe import Recipe
    from proguard_edge.export.stages import Source

FOLDER = click.Path(path_type=Path, file_okay=False)
ANY = click.Path(path_type=Path)


class _DefaultGroup(click.Group):
    """A group whose first word is a command, or the argument of `make`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultGroup)
def export() -> None:
    """Make artifacts from a Qwen2.5-VL checkpoint folder, and measure what they lost.

    `proguard-edge export CHECKPOINT --recipe NAME -o DIR` is short for `export make CHECKPOINT …`.
    Nothing is read from the network.
    """


@export.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("-o", "--output", type=ANY, required=True, help="The folder to make.")
@click.option(
    "--recipe", default="onnx-int4", show_default=True, help="One of `export recipes`, or a file."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="STEP.OPTION=VALUE",
    help="Another option of a recipe's step.",
)
@click.option("--data", type=ANY, help="Labelled rows that the quality gate judges.")
@click.option("--no-gate", is_flag=True, help="Do not measure; the manifest says so.")
@click.option("--rows", type=click.IntRange(1), help="At most this many rows for the gate.")
@click.option("--min-agreement", type=float, help="Share of labels that must stay as they were.")
@click.option("--max-kl", type=float, help="Mean divergence of the labels, in nats.")
@click.option("--max-f1-drop", type=float, help="Of the unsafe class, before minus after.")
@click.option("--max-recall-drop", type=float, help="Of the unsafe class, before minus after.")
@click.option("--min-rows", type=int, help="Rows that must have been compared.")
@click.option("--reference", type=FOLDER, help="Compare with this artifact, not the checkpoint.")
@click.option("--calibration", type=ANY, help="Labelled rows, for recipes that calibrate.")
@click.option("--policy", default="default", show_default=True, metavar="FILE|default")
@click.option(
    "--template",
    default="proguard",
    show_default=True,
    metavar=f"FILE|{'|'.join(TEMPLATES)}",
    help="Released weights were trained on the wording of `proguard`.",
)
@click.option("--like", type=FOLDER, help="Take policy, template and abilities of this artifact.")
@click.option("--name", help="Name of the artifact.  [default: the checkpoint's folder]")
@click.option("--text-only", is_flag=True, help="Leave the vision tower out.")
@click.option("--work", type=FOLDER, help="Finished steps, to go on from.  [default: OUTPUT.work]")
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="STAGE=PATH",
    help="Interpreter of a stage that has an environment of its own: gptq, edgellm.",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="For judging; 0 = all cores.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--force", is_flag=True, help="Replace the artifact in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@handle_errors
def make(
    checkpoint: Path,
    output: Path,
    recipe: str,
    settings: tuple[str, ...],
    data: Path | None,
    no_gate: bool,
    calibration: Path | None,
    policy: str,
    template: str,
    like: Path | None,
    name: str | None,
    text_only: bool,
    work: Path | None,
    pythons: tuple[str, ...],
    seed: int,
    force: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Make an artifact from a CHECKPOINT folder by a recipe, and pass it through the gate.

    Run it again after a stop: finished steps and verdicts are not made twice.
    """
    from rich.console import Console

    from proguard_edge.export.pipeline import run_recipe
    from proguard_edge.export.recipe import Recipe
    from proguard_edge.export.stages import Source

    if (data is None) != no_gate:
        raise click.UsageError("give --data ROWS for the quality gate, or --no-gate to go without")
    chosen = Recipe.load(recipe).with_options(_pairs(settings, typed=True))
    contents = _contents(policy, template, like, name or checkpoint.resolve().name, text_only)
    source = Source(checkpoint, contents, calibration, seed, _pairs(pythons))
    gate = None if data is None else _gate(chosen, data, limits)
    work = work or output.absolute().with_name(f"{output.name}.work")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    _announce(chosen, source, work, gate, console.print)
    done = run_recipe(chosen, source, output, work, gate, force=force, report=console.print)
    _print(done, as_json)


@export.command()
@click.option("--json", "as_json", is_flag=True)
@handle_errors
def recipes(as_json: bool) -> None:
    """List the recipes: what they make, how large, and what runs it."""
    import json

    from proguard_edge.export.recipe import Recipe, recipe_names
    from proguard_edge.export.sizes import GB, PROGUARD, need

    found: list[dict[str, Any]] = []
    for recipe in map(Recipe.load, recipe_names()):
        step = recipe.step(recipe.artifact)
        sizes = {model: need(step, weights).kept / GB for model, weights in PROGUARD.items()}
        found.append(
            {
                "name": recipe.name,
                "summary": recipe.summary,
                "hardware": recipe.hardware,
                "gigabytes": {model: round(size, 1) for model, size in sizes.items()},
            }
        )
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for of in found:
        shown = ", ".join(f"{model} {size} GB" for model, size in of["gigabytes"].items())
        click.echo(f"{of['name']:<16} about {shown}")
        click.echo(f"{'':<16} {of['summary']}")
        click.echo(f"{'':<16} runs on: {of['hardware']}\n")


@export.command()
@click.argument("folder", type=FOLDER)
@click.option("--json", "as_json", is_flag=True)
@handle_errors
def inspect(folder: Path, as_json: bool) -> None:
    """Show what an artifact holds: sizes, precision by module, provenance, gate."""
    import json

    from proguard_edge.artifact import Artifact
    from proguard_edge.export.inspection import inspect as look

    found = look(Artifact.open(folder))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    click.echo(f"{found['name']}, {found['engine']} {found['precision']}, sha256 {found['digest']}")
    click.echo(f"{found['bytes'] / 1e6:10.2f} MB in {len(found['files'])} files")
    for held in found["modules"]:
        size = f"{held['bytes'] / 1e6:10.2f} MB"
        click.echo(f"{size}  {held['module']:<14} {held['precision']}, {held['count']} tensors")
    for name in ("source", "licence", "recipe", "quantization", "versions", "quality"):
        if found[name] is not None:
            click.echo(f"{name}: {json.dumps(found[name], ensure_ascii=False)}")


def _announce(recipe: Recipe, source: Source, work: Path, gate: Gate | None, report: Any) -> None:
    """Say what the run will take before it begins. Raises ArtifactError where the disk is full."""
    from proguard_edge.export.checkpoint import read_json
    from proguard_edge.export.sizes import (
        GB,
        Weights,
        check_disk,
        free_memory,
        need,
        reference_memory,
    )

    weights = Weights.of(read_json(source.checkpoint / "config.json"))
    vision = source.contents.vision
    disk = check_disk(recipe, weights, work, vision=vision)
    peak = max(need(step, weights, vision=vision).memory for step in recipe.steps)
    if gate is not None and gate.reference is None:
        peak = max(peak, reference_memory(weights))
    report(
        f"{recipe.name}: {weights.total / GB:.2f} billion weights; "
        f"about {disk / GB:.1f} GB of disk in {work}, {peak / GB:.1f} GB of memory"
    )
    free = free_memory()
    if free is not None and free < peak:
        report(
            f"only {free / GB:.1f} GB of memory are free: it may be stopped by the system"
            + (
                "; --reference compares with a smaller artifact than the checkpoint in float32"
                if gate is not None and reference_memory(weights) == peak
                else ""
            )
        )


def _contents(policy: str, template: str, like: Path | None, name: str, text: bool) -> Contents:
    from dataclasses import replace

    from proguard_edge.artifact import Artifact
    from proguard_edge.export.folder import Contents

    if like is not None:
        found = Contents.like(Artifact.open(like), name)
        return replace(found, modalities=("text",)) if text else found
    return Contents(
        policy=policy_named(policy),
        template=template_named(template),
        name=name,
        modalities=("text",) if text else ("text", "text-image", "image"),
        response_line=response_line_of(template),
    )


def _gate(recipe: Recipe, data: Path, given: dict[str, Any]) -> Gate:
    from dataclasses import replace

    from proguard_edge.errors import InputError
    from proguard_edge.export.gate import Gate
    from proguard_edge.train.sources import read_rows

    most, reference, threads = (given.pop(name) for name in ("rows", "reference", "threads"))
    limits = replace(recipe.limits, **{k: v for k, v in given.items() if v is not None})
    rows = list(read_rows(data))
    if not rows:
        raise InputError(f"{data}: no rows")
    return Gate(rows[:most], limits, reference, threads)


def _pairs(given: tuple[str, ...], *, typed: bool = False) -> dict[str, Any]:
    """`NAME=VALUE` options; typed: values as YAML reads them."""
    import yaml

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is not NAME=VALUE")
        found[name] = yaml.safe_load(value) if typed else value
    return found


def _print(done: Done, as_json: bool) -> None:
    artifact = done.artifact
    sizes = {name: entry.size for name, entry in artifact.files.items()}
    quality = artifact.manifest["quality"]
    if as_json:
        import json

        summary = {
            "folder": str(artifact.folder),
            "digest": artifact.digest,
            "name": artifact.name,
            "engine": artifact.engine,
            "precision": artifact.precision,
            "bytes": sum(sizes.values()),
            "files": sizes,
            "steps": done.steps,
            "quality": quality,
        }
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    for name, size in sizes.items():
        click.echo(f"{size / 1e6:10.2f} MB  {name}")
    click.echo(f"{sum(sizes.values()) / 1e6:10.2f} MB  {artifact.folder}")
    click.echo(f"{artifact.name}, {artifact.engine} {artifact.precision}, sha256 {artifact.digest}")
    if not quality["measured"]:
        click.echo("quality: not measured")
        return
    for part, of in quality["parts"].items():
        click.echo(
            f"{part}: {of['agreement']:.2%} of {of['rows']} labels as before, "
            f"KL {of['kl']:.4f} nats"
        )
