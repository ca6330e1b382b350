"""A GPTQ folder to an artifact for TensorRT-LLM: the same integers in its layout, verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from proguard_edge.artifact import Artifact
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.folder import Contents, finish, staged, write_common
from proguard_edge.export.trtllm import convert_trtllm

FOLDER = "trtllm"


def export_trtllm(
    gptq: Path,
    out: Path,
    checkpoint: Path,
    contents: Contents,
    *,
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Write the artifact folder `out`, whole or not at all; what TensorRT-LLM reads is `trtllm/`.

    gptq: a GPTQ folder of `checkpoint`. Every matrix is dequantized on both sides and compared byte
    for byte. Raises ArtifactError or PolicyError.
    """
    source = Checkpoint(checkpoint)
    with staged(out, force) as folder:
        report("tokenizer, policy, template")
        write_common(folder, source, contents)
        convert_trtllm(gptq, folder / FOLDER, report=report)
        finish(folder, source, contents, engine="tensorrt_llm", precision="w4a16_awq")
    return Artifact.open(out)
