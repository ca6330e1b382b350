"""Exports with the faults that a gate is there for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact, write_artifact


def zeroed_layer(artifact: Path, out: Path, layer: int) -> Path:
    """A decoder layer that adds nothing."""
    return _with_scales(artifact, out, lambda name: 0.0 if f"layers.{layer}." in name else 1.0)


def doubled_scales(artifact: Path, out: Path, matrix: str) -> Path:
    """Matrices of a kind, `down_proj` for one, that are twice as large."""
    return _with_scales(artifact, out, lambda name: 2.0 if matrix in name else 1.0)


def swapped_image_tokens(artifact: Path, out: Path) -> Path:
    """A vision tower whose tokens stay in the order of its windows."""
    import onnx_ir as ir

    def swap(model: Any) -> None:
        (last,) = (node for node in model.graph if inverse(model) in node.inputs)
        identity = ir.node("Identity", [last.inputs[0]])
        ir.convenience.replace_nodes_and_values(
            model.graph, last, [last], [identity], last.outputs, identity.outputs
        )

    def inverse(model: Any) -> Any:
        return next(value for value in model.graph.inputs if value.name == "inv")

    return _edited(artifact, out, "vision.onnx", swap)


def _with_scales(artifact: Path, out: Path, factor: Callable[[str], float]) -> Path:
    def scale(model: Any) -> None:
        import onnx_ir as ir

        changed = 0
        for name, value in model.graph.initializers.items():
            if name.endswith(".scales") and factor(name) != 1:
                array = value.const_value.numpy()
                scaled = (array * factor(name)).astype(array.dtype)
                value.const_value = ir.tensor(np.ascontiguousarray(scaled), name=name)
                changed += 1
        assert changed, [n for n in model.graph.initializers if n.endswith(".scales")][:10]

    return _edited(artifact, out, "decoder.onnx", scale)


def _edited(artifact: Path, out: Path, name: str, edit: Callable[[Any], None]) -> Path:
    import onnx_ir as ir

    from proguard_edge.export.graph import save

    shutil.copytree(artifact, out, ignore=shutil.ignore_patterns(f"{name}*"))
    model = ir.load(artifact / name)
    edit(model)
    save(model, out / name)
    write_artifact(out, Artifact.open(artifact).description())
    return out
