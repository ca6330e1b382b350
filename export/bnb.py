"""Checkpoint to an artifact with bitsandbytes weights for the transformers engine.

NF4 (arXiv 2305.14314: 4 bits at the quantiles of a normal distribution, blocks of 64) or int8
(arXiv 2208.07339: rows of 8 bits, outliers apart). The decoder's matrices only: embeddings, output
head and vision tower stay as they are. Nothing is calibrated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from proguard_edge.artifact import Artifact
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import need
from proguard_edge.export.folder import Contents, finish, staged, write_common

Kind = Literal["nf4", "int8"]
KEPT = ("lm_head", "model.visual")
FOLDER = "hf"


def export_bnb(
    checkpoint: Path,
    out: Path,
    contents: Contents,
    *,
    kind: Kind = "nf4",
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Write the artifact folder `out`, whole or not at all; the weights lie under `hf/`.

    Raises ArtifactError or PolicyError; ArtifactError also when `out` is not empty, see `staged`.
    """
    if kind not in get_args(Kind):
        raise ArtifactError(f"no bitsandbytes kind {kind!r}; known are {', '.join(get_args(Kind))}")
    need("torch", "transformers", "safetensors")
    need("bitsandbytes", extra="bnb")
    source = Checkpoint(checkpoint)
    with staged(out, force) as folder:
        report("tokenizer, policy, template")
        write_common(folder, source, contents)
        report(f"weights, {kind}")
        (folder / FOLDER).mkdir()
        _quantized(source, kind).save_pretrained(folder / FOLDER)
        for path in (folder / FOLDER).iterdir():
            path.chmod(0o644)
        report("digests")
        finish(folder, source, contents, engine="transformers", precision=f"bnb-{kind}")
    return Artifact.open(out)


def _quantized(source: Checkpoint, kind: Kind) -> Any:
    import torch
    from transformers import BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

    chosen: dict[str, Any] = (
        {"load_in_8bit": True}
        if kind == "int8"
        else {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.float32,
        }
    )
    loader: Any = Qwen2_5_VLForConditionalGeneration
    return loader.from_pretrained(
        source.folder,
        dtype=torch.float32,
        local_files_only=True,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(llm_int8_skip_modules=list(KEPT), **chosen),
    )
