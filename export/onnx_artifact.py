"""Checkpoint to an artifact for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from proguard_edge.artifact import Artifact
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import need
from proguard_edge.export.folder import Contents, finish, staged, write_common
from proguard_edge.export.gptq_layout import GptqCheckpoint
from proguard_edge.export.onnx_decoder import Precision, export_decoder
from proguard_edge.export.onnx_vision import VisionPrecision, export_vision
from proguard_edge.export.tables import TableType, write_table

Report = Callable[[str], None]


def export_onnx(
    checkpoint: Path,
    out: Path,
    contents: Contents,
    *,
    precision: Precision = "int4",
    embeddings: TableType = "int8",
    vision_precision: VisionPrecision | None = None,
    context: int | None = None,
    gptq: Path | None = None,
    ranges: Path | None = None,
    force: bool = False,
    report: Report = lambda _: None,
    **decoder: Any,
) -> Artifact:
    """Write the artifact folder `out`, whole or not at all.

    precision: of the decoder's matrices. embeddings: type of the embedding table and of the output
    head. vision_precision: see `export_vision`; unless given, fp32 if the decoder is, else fp16w.
    context: tokens that the model may read, at most the checkpoint's. gptq: the folder that GPTQ
    made of `checkpoint`; the decoder gets its integers, everything else comes from `checkpoint`.
    ranges: of activations, for precision w8a8, see `ranges.measure_ranges`.
    decoder: further options of `finish_decoder`. report: called with a line before every stage.
    Raises ArtifactError or PolicyError; ArtifactError also when `out` is not empty, see `staged`.
    """
    need("torch", "transformers", "safetensors", "onnx_ir", "onnxruntime_genai")
    source = Checkpoint(checkpoint)
    longest = int(source.config.text_config.max_position_embeddings)
    if context is not None and not 0 < context <= longest:
        raise ArtifactError(f"a context of {context} tokens; the checkpoint has {longest}")
    with staged(out, force) as folder:
        report("tokenizer, policy, template")
        write_common(folder, source, contents)
        report(f"decoder, {precision}" + (f", integers of {gptq.name}" if gptq else ""))
        export_decoder(
            checkpoint, folder, precision, context=context, gptq=gptq, ranges=ranges, **decoder
        )
        report(f"embeddings, {embeddings}")
        write_table(source.embeddings(), folder, "embeddings", embeddings)
        if (head := source.head()) is not None:
            report(f"output head, {embeddings}")
            write_table(head, folder, "head", embeddings)
        if contents.vision:
            tower = vision_precision or ("fp32" if precision == "fp32" else "fp16w")
            report(f"vision tower, {tower}")
            export_vision(checkpoint, folder, tower)
        report("digests")
        model = {} if context is None else {"context": context}
        engine: dict[str, Any] = {"engine": "onnx", "precision": precision, "model": model}
        if gptq is not None:
            engine["quantization"] = GptqCheckpoint(gptq).record()
        finish(folder, source, contents, **engine)
    return Artifact.open(out)
