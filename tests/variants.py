"""Copies of an artifact that say something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from proguard_edge.artifact import write_artifact

# The tiny random model finds most things unsafe; with these biases all or none of them.
ALL_SAFE = {part: {"bias": 100.0, "temperature": 1.0} for part in ("request", "response")}
ALL_UNSAFE = {part: {"bias": -100.0, "temperature": 1.0} for part in ("request", "response")}


def variant(artifact: Path, folder: Path, **changes: Any) -> Path:
    """A copy in `folder` (which it returns) whose manifest has other fields."""
    shutil.copytree(artifact, folder)
    manifest = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    write_artifact(folder, {**manifest, **changes})
    return folder
