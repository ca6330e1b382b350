"""Whether this processor multiplies 8-bit integers exactly.

Without VNNI, x86 adds pairs of products in 16 bits and cuts off what does not fit: an artifact of
precision w8a8 would give other scores there, without an error.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from proguard_edge.errors import EngineError

PROBE = Path(__file__).parent / "products.onnx"
# Of `products.onnx`, see `export.w8a8.probe_model`: 64 products of the largest integers.
EXPECTED = 64 * 127 * 127


def check_products() -> None:
    """Raises EngineError unless the largest products of 8-bit integers add up exactly."""
    if not products_are_exact():
        raise EngineError(
            "this processor does not add products of 8-bit integers exactly (it has no VNNI): use "
            "an artifact of another recipe, such as onnx-int4"
        )


def products_are_exact() -> bool:
    """Whether they do."""
    return bool(np.all(_products() == EXPECTED))


@cache
def _products() -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(PROBE), options, providers=["CPUExecutionProvider"])
    out: np.ndarray = session.run(None, {"tokens": np.full((4, 64), 255, np.uint8)})[0]
    return out
