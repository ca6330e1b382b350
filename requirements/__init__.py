"""What each stage needs, pinned with hashes: `STAGE.txt` for a CPU, `cuda13/STAGE.txt` for CUDA 13.

`STAGE.in` holds direct needs of stages whose pins conflict with those of pyproject.toml's extras,
`build.txt` what builds this package from a checkout.
"""

from __future__ import annotations

from pathlib import Path

LOCKS = Path(__file__).parent
BUILD = LOCKS / "build.txt"
