"""The artifact: a folder that holds everything a verdict needs, with a digest of every byte."""

from __future__ import annotations

from proguard_edge.artifact.format import FORMAT, Artifact, Calibration, MissBound, write_artifact
from proguard_edge.artifact.verify import check_digests, check_sizes, verify_once

__all__ = [
    "FORMAT",
    "Artifact",
    "Calibration",
    "MissBound",
    "check_digests",
    "check_sizes",
    "verify_once",
    "write_artifact",
]
