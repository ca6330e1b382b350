"""`proguard-edge export`: make an artifact from a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import TEMPLATES, policy_named, response_line_of, template_named

if TYPE_CHECKING:
    from proguard_edge.artifact import Artifact
    from proguard_edge.export.folder import Contents


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to make."
)
@click.option(
    "--engine",
    type=click.Choice(("onnx", "transformers")),
    default="onnx",
    show_default=True,
    help="What will run it; transformers is the reference and keeps the weights as they are.",
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "int8", "int4")),
    help="Of the decoder, for onnx.  [default: int4]",
)
@click.option(
    "--embeddings",
    type=click.Choice(("float32", "float16", "int8")),
    help="Type of the token tables, for onnx.  [default: int8; float32 with fp32]",
)
@click.option("--context", type=click.IntRange(1), help="Tokens it may read, for onnx.")
@click.option("--policy", default="default", show_default=True, metavar="FILE|default")
@click.option(
    "--template",
    default="proguard",
    show_default=True,
    metavar=f"FILE|{'|'.join(TEMPLATES)}",
    help="Released weights were trained on the wording of `proguard`.",
)
@click.option("--name", help="Name of the artifact.  [default: the checkpoint's folder]")
@click.option("--text-only", is_flag=True, help="Leave the vision tower out.")
@click.option("--force", is_flag=True, help="Replace the artifact in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@handle_errors
def export(
    checkpoint: Path,
    output: Path,
    engine: str,
    precision: str | None,
    embeddings: str | None,
    context: int | None,
    policy: str,
    template: str,
    name: str | None,
    text_only: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make an artifact from a Qwen2.5-VL CHECKPOINT folder. Nothing is read from the network."""
    from rich.console import Console

    if engine != "onnx" and (precision or embeddings or context):
        raise click.UsageError("--precision, --embeddings and --context are for --engine onnx")
    contents = _contents(policy, template, name or checkpoint.resolve().name, text_only)
    console = Console(stderr=True, highlight=False, markup=False)
    options: dict[str, Any] = {"force": force, "report": console.print}
    if engine == "onnx":
        from proguard_edge.export.onnx_artifact import export_onnx

        options |= {"precision": precision or "int4", "context": context}
        options["embeddings"] = embeddings or ("float32" if precision == "fp32" else "int8")
        artifact = export_onnx(checkpoint, output, contents, **options)
    else:
        from proguard_edge.export.transformers_artifact import export_transformers

        artifact = export_transformers(checkpoint, output, contents, **options)
    _print(artifact, as_json)


def _contents(policy: str, template: str, name: str, text_only: bool) -> Contents:
    from proguard_edge.export.folder import Contents

    return Contents(
        policy=policy_named(policy),
        template=template_named(template),
        name=name,
        modalities=("text",) if text_only else ("text", "text-image", "image"),
        response_line=response_line_of(template),
    )


def _print(artifact: Artifact, as_json: bool) -> None:
    sizes = {name: entry.size for name, entry in artifact.files.items()}
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
        }
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    for name, size in sizes.items():
        click.echo(f"{size / 1e6:10.2f} MB  {name}")
    click.echo(f"{sum(sizes.values()) / 1e6:10.2f} MB  {artifact.folder}")
    click.echo(f"{artifact.name}, {artifact.engine} {artifact.precision}, sha256 {artifact.digest}")
