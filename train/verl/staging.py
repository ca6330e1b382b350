"""The checkpoint as verl needs it: whole settings of a processor beside the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from proguard_edge.export.checkpoint import Checkpoint, read_json

PROCESSOR = "Qwen2_5_VLProcessor"
IMAGE, VIDEO = "preprocessor_config.json", "video_preprocessor_config.json"


def stage_model(checkpoint: Path, out: Path) -> None:
    """Fill the folder `out` with links to the checkpoint's files and what its processor lacks.

    transformers finds the processor of a checkpoint by a class name that small or old checkpoints
    do not state, and asks for video settings that nothing here uses. Raises ArtifactError when the
    folder is no Qwen2.5-VL checkpoint.
    """
    source = Checkpoint(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    for path in source.folder.iterdir():
        if path.is_file() and not (out / path.name).exists():
            _place(path, out / path.name)
    if not (source.folder / IMAGE).is_file():
        return
    image = read_json(source.folder / IMAGE)
    if "processor_class" not in image:
        _write(out / IMAGE, {**image, "processor_class": PROCESSOR})
    if not (source.folder / VIDEO).is_file():
        shared = {key: value for key, value in image.items() if not key.endswith("_type")}
        video = {
            **shared,
            "video_processor_type": "Qwen2VLVideoProcessor",
            "processor_class": PROCESSOR,
        }
        _write(out / VIDEO, video)


def _place(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
