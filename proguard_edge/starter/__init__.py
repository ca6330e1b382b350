"""The embedded starter: a small English text guard, so that a fresh install gives verdicts."""

from __future__ import annotations

from pathlib import Path

STARTER = Path(__file__).parent / "artifact"
