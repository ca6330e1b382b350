"""The two ceilings of a machine, measured on it, and how near a verdict comes to them.

Arithmetic: float32 multiplications of matrices, as numpy's BLAS does them on the same number of
threads. Kernels that multiply in 8 bits may come out above it. Memory: bytes read and written by
copies of arrays that no cache holds. Roofline: Williams, Waterman, Patterson, CACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact
from proguard_edge.system import cores

SIZE = 1536
COPY_BYTES = 256 << 20
REPEATS = 5


@dataclass(frozen=True)
class Ceilings:
    """arithmetic: float32 operations a second. bandwidth: bytes a second."""

    arithmetic: float
    bandwidth: float

    def to_dict(self) -> dict[str, float]:
        """In units of 10⁹."""
        return {
            "gflops": round(self.arithmetic / 1e9, 1),
            "gb_per_s": round(self.bandwidth / 1e9, 2),
        }


@dataclass(frozen=True)
class Work:
    """What the decoder of an artifact costs: weights in its matrices, and their bytes."""

    weights: int
    bytes: int


def measure_ceilings(threads: int = 0) -> Ceilings:
    """Best of five; takes about two seconds."""
    threads = threads or cores()
    rng = np.random.default_rng(0)
    a, b = (rng.random((SIZE, SIZE), np.float32) for _ in range(2))
    arithmetic = 2.0 * SIZE**3 / best_of(lambda: a @ b)
    parts = [np.zeros(COPY_BYTES // threads, np.uint8) for _ in range(threads)]
    places = [np.ones_like(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, places, parts))

        bandwidth = 2.0 * COPY_BYTES / best_of(copy)
    return Ceilings(arithmetic, bandwidth)


def decoder_work(artifact: Artifact) -> Work | None:
    """Of an ONNX decoder; None for other engines, and where `onnx` is not installed."""
    path = artifact.folder / "decoder.onnx"
    if not path.is_file():
        return None
    try:
        import onnx
    except ImportError:
        return None
    model = onnx.load(path, load_external_data=False)
    sizes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    weights = 0
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            shape = {a.name: a.i for a in node.attribute}
            weights += shape["K"] * shape["N"]
        elif node.op_type in ("MatMul", "MatMulIntegerToFloat"):
            weights += int(np.prod(sizes.get(node.input[1], (0,))))
    data = Path(f"{path}.data")
    return Work(weights, data.stat().st_size) if weights and data.is_file() else None


def roofline(summary: Mapping[str, Any], work: Work, ceilings: Ceilings) -> dict[str, Any] | None:
    """Where the prefill of a scenario lies: operations a byte, rates, shares of the ceilings.

    summary: of a `latency.Series`. The products of attention are not counted, so a share is a lower
    bound. None where the contender tells no prefill.
    """
    ms, tokens = summary.get("phases_ms", {}).get("prefill"), summary.get("tokens", {})
    if not ms or "content" not in tokens:
        return None
    new = tokens["content"]
    operations = 2.0 * work.weights * new
    seconds = ms / 1000
    rate, traffic = operations / seconds, work.bytes / seconds
    found = {
        "gflops": rate / 1e9,
        "gb_per_s": traffic / 1e9,
        "operations_per_byte": operations / work.bytes,
        "share_of_arithmetic": rate / ceilings.arithmetic,
        "share_of_bandwidth": traffic / ceilings.bandwidth,
        "tokens_per_s": new / seconds,
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def described(ceilings: Ceilings, work: Work | None) -> dict[str, Any]:
    """For a report."""
    return {**ceilings.to_dict(), "decoder": None if work is None else asdict(work)}


def best_of(run: Callable[[], object]) -> float:
    """Seconds of the fastest of five runs."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
