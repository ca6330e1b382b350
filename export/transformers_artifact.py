"""Checkpoint to an artifact for transformers: the weights as they are, the reference engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from proguard_edge.artifact import Artifact
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import need
from proguard_edge.export.folder import Contents, finish, staged, write_common

SETTINGS = ("config.json", "generation_config.json", "model.safetensors.index.json")
FOLDER = "hf"


def export_transformers(
    checkpoint: Path,
    out: Path,
    contents: Contents,
    *,
    link: bool = True,
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Artifact:
    """Write the artifact folder `out`, whole or not at all; the weights lie under `hf/`.

    link: hard-link weight files where the file system can, so that they take no further disk.
    Whoever then changes the checkpoint in place changes the artifact too, and its digests tell.
    Raises ArtifactError or PolicyError; ArtifactError also when `out` is not empty, see `staged`.
    """
    need("transformers", "safetensors")
    source = Checkpoint(checkpoint)
    precision = str(source.config.dtype or "float32").removeprefix("torch.")
    with staged(out, force) as folder:
        report("tokenizer, policy, template")
        write_common(folder, source, contents)
        report("weights")
        (folder / FOLDER).mkdir()
        for name in SETTINGS:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, folder / FOLDER / name)
        for file in source.weight_files:
            _place(file, folder / FOLDER / file.name, link)
        report("digests")
        finish(folder, source, contents, engine="transformers", precision=precision)
    return Artifact.open(out)


def _place(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            # The resolved file: a checkpoint in a hub's cache is made of symbolic links.
            os.link(source.resolve(), target)
        except OSError:
            pass
        else:
            return
    shutil.copyfile(source, target)
