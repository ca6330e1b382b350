"""What an artifact holds: bytes and precision by module, provenance, recipe, and its gate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact
from proguard_edge.export.extras import need
from proguard_edge.export.tensor_file import TensorFile

# A tensor's module by a part of its name, the first that fits.
MODULES = (
    ("visual", "vision tower"),
    ("vision", "vision tower"),
    ("embed", "embeddings"),
    ("lm_head", "output head"),
    ("attn", "attention"),
    ("mlp", "mlp"),
    ("norm", "norms"),
)


@dataclass(frozen=True)
class Held:
    """Tensors of one module in one precision. count: of tensors; bytes: of all of them."""

    module: str
    precision: str
    count: int
    bytes: int


def inspect(artifact: Artifact) -> dict[str, Any]:
    """Everything as plain data. Raises ArtifactError where a library is missing."""
    manifest = artifact.manifest
    quality = artifact.folder / "quality.json"
    return {
        "name": artifact.name,
        "digest": artifact.digest,
        "engine": artifact.engine,
        "precision": artifact.precision,
        "bytes": sum(entry.size for entry in artifact.files.values()),
        "files": {name: entry.size for name, entry in artifact.files.items()},
        "modules": [asdict(held) for held in modules(artifact)],
        "model": artifact.model,
        "source": manifest.get("source"),
        "training": manifest.get("training"),
        "licence": manifest.get("licence"),
        "versions": manifest.get("versions"),
        "recipe": manifest.get("recipe"),
        "quantization": manifest.get("quantization"),
        "quality": manifest.get("quality", {"measured": False}),
        "report": quality.name if quality.is_file() else None,
    }


def modules(artifact: Artifact) -> list[Held]:
    """Precision and bytes of every module, the largest first."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for name, precision, size in _tensors(artifact):
        of = sums[_module(name), precision]
        of[0] += 1
        of[1] += size
    found = [Held(*key, *of) for key, of in sums.items()]
    return sorted(found, key=lambda held: -held.bytes)


def _tensors(artifact: Artifact) -> Iterator[tuple[str, str, int]]:
    """Name, precision and bytes of every tensor."""
    for name in artifact.files:
        path = artifact.folder / name
        if name.endswith(".onnx"):
            yield from _onnx(path)
        elif name.endswith(".safetensors"):
            for tensor, spec in TensorFile(path).specs.items():
                yield tensor, spec.dtype.lower(), spec.size
        elif name.endswith(".npy"):
            array = np.load(path, mmap_mode="r")
            kind = "lm_head" if path.stem.startswith("head") else "embed"
            yield f"{kind}.{path.stem}", str(array.dtype), array.nbytes


def _onnx(path: Path) -> Iterator[tuple[str, str, int]]:
    need("onnx_ir")
    import onnx_ir as ir

    prefix = "visual" if path.stem == "vision" else "decoder"
    graph = ir.load(path).graph
    bits = {
        value.name: f"int{node.attributes['bits'].value} in {node.attributes['block_size'].value}s"
        for node in graph
        if node.op_type == "MatMulNBits"
        for value in node.inputs[1:2]
    }
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            precision = bits.get(name, tensor.dtype.name.lower())
            yield f"{prefix}.{name}", precision, int(tensor.nbytes)


def _module(name: str) -> str:
    for part, module in MODULES:
        if part in name:
            return module
    return "other"
