"""Checkpoint to an artifact for transformers: the weights as they are, or those of GPTQ.

transformers reads a GPTQ folder with optimum and gptqmodel, which live in the environment of
`requirements/gptq.txt`; vLLM reads the folder `hf/` without them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proguard_edge.artifact import Artifact
from proguard_edge.export.checkpoint import Checkpoint, read_json
from proguard_edge.export.extras import need
from proguard_edge.export.folder import Contents, finish, link_or_copy, staged, write_common
from proguard_edge.export.gptq import verify
from proguard_edge.export.gptq_layout import GptqCheckpoint

SETTINGS = ("config.json", "generation_config.json", "model.safetensors.index.json")
FOLDER = "hf"


def export_transformers(
    checkpoint: Path,
    out: Path,
    contents: Contents,
    *,
    gptq: Path | None = None,
    link: bool = True,
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Write the artifact folder `out`, whole or not at all; the weights lie under `hf/`.

    gptq: the folder that GPTQ made of `checkpoint`; its weights are taken, after they were compared
    with the checkpoint's.
    link: hard-link weight files where the file system can, so that they take no further disk.
    Whoever then changes the checkpoint in place changes the artifact too, and its digests tell.
    Raises ArtifactError or PolicyError; ArtifactError also when `out` is not empty, see `staged`.
    """
    need("transformers", "safetensors")
    source = Checkpoint(checkpoint)
    engine: dict[str, Any] = {"precision": str(source.config.dtype or "float32").split(".")[-1]}
    weights, files = source.folder, source.weight_files
    if gptq is not None:
        report(f"weights of {gptq.name} against the checkpoint")
        verify(checkpoint, gptq)
        rounded = GptqCheckpoint(gptq)
        engine = {"precision": "gptq-int4", "quantization": rounded.record()}
        weights, files = gptq, tuple(file.path for file in rounded.tensors.files.values())
    with staged(out, force) as folder:
        report("tokenizer, policy, template")
        write_common(folder, source, contents)
        report("weights")
        place = link_or_copy if link else shutil.copyfile
        (folder / FOLDER).mkdir()
        for name in SETTINGS:
            if (weights / name).is_file():
                shutil.copyfile(weights / name, folder / FOLDER / name)
        if gptq is not None:
            _choose_kernel(folder / FOLDER / "config.json")
        for file in files:
            place(file, folder / FOLDER / file.name)
        report("digests")
        finish(folder, source, contents, engine="transformers", **engine)
    return Artifact.open(out)


def _choose_kernel(path: Path) -> None:
    """On a CPU gptqmodel would choose a kernel that computes in bfloat16 whatever it is given; the
    plain one came 15 times closer to the dequantized weights."""
    config = read_json(path)
    config.setdefault("quantization_config", {})["backend"] = "torch"
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
