"""The artifact: a folder that holds everything a verdict needs, with a digest of every byte."""

from __future__ import annotations

from proguard_edge.artifact.format import FORMAT, Artifact, Calibration, MissBound
from proguard_edge.artifact.sign import check_signature, sign_artifact
from proguard_edge.artifact.verify import check_digests, check_sizes, verify_once
from proguard_edge.artifact.write import write_artifact

__all__ = [
    "FORMAT",
    "Artifact",
    "Calibration",
    "MissBound",
    "check_digests",
    "check_signature",
    "check_sizes",
    "sign_artifact",
    "verify_once",
    "write_artifact",
]
