"""Export: from a checkpoint folder to an artifact (extra `export`)."""

from __future__ import annotations

from proguard_edge.export.checkpoint import Checkpoint, describe
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.export.transformers_artifact import export_transformers

__all__ = ["Checkpoint", "describe", "export_onnx", "export_transformers"]
