"""Tiny graphs that the runtime tries machines with; their bytes lie in the package."""

from __future__ import annotations

from typing import Any

import numpy as np

from proguard_edge.export.graph import GraphWriter


def sums_model() -> Any:
    """The onnx-ir model of `doctor/sums.onnx`: float32 [M, 8] times [8, 4], and its Relu.

    Small whole numbers, which every float type of every provider multiplies exactly.
    """
    writer = GraphWriter("sums")
    numbers = writer.input("numbers", "float32", ["M", 8])
    weights = writer.vector("weights", np.arange(-16, 16, dtype=np.float32).reshape(8, 4))
    product = writer.op("MatMul", numbers, weights)
    writer.output(writer.op("Relu", product), "sums", "float32", ["M", 4])
    return writer.model()
