"""Finished steps on disk: a step whose inputs have not changed is not run again.

A step's folder is named by its stage and a digest of everything that it was made of. Its record,
`NAME.json` beside it, is written last: without it the folder is what a stopped run left behind.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proguard_edge.errors import ArtifactError


class Store:
    """A folder of finished steps. Recipes may share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(
        self, stage: str, key: str, description: dict[str, Any], make: Callable[[Path], None]
    ) -> tuple[Path, dict[str, Any], bool]:
        """The folder of a step, its record, and whether it stood there already.

        make: called with an empty folder, where there is no finished one. Raises ArtifactError when
        the store cannot be written, and what `make` raises.
        """
        name = f"{stage}-{key[:16]}"
        folder, record = self.folder / name, self.folder / f"{name}.json"
        if record.is_file() and folder.is_dir():
            found = json.loads(record.read_text(encoding="utf-8"))
            if found.get("key") == key:
                return folder, found, True
        try:
            record.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        except OSError as error:
            raise ArtifactError(f"{folder}: cannot be made: {error.strerror or error}") from None
        begin = time.monotonic()
        make(folder)
        found = {
            **description,
            "key": key,
            "seconds": round(time.monotonic() - begin, 1),
            "peak_rss_mb": peak_memory(),
            "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        }
        record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return folder, found, False


def peak_memory() -> dict[str, int]:
    """The most memory, in MB, that this process and the largest of those it waited for had yet."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"own": resource.RUSAGE_SELF, "largest_child": resource.RUSAGE_CHILDREN}
    return {
        name: int(resource.getrusage(who).ru_maxrss * unit / 1e6) for name, who in found.items()
    }
