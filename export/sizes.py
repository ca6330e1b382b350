"""What an export will need before it begins: disk, memory, and the size of the result.

Estimates from the configuration alone. The factors of memory were measured on checkpoints of 0.13
and of 3.8 billion weights, and rounded up.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proguard_edge import system
from proguard_edge.errors import ArtifactError
from proguard_edge.export.recipe import Recipe, Step

GB = 1e9
BYTES = {"float32": 4.0, "float16": 2.0, "fp32": 4.0, "fp16w": 2.0}
# Of tables and of towers: 8 bits in blocks of 32 that share a float16.
BYTES["int8"] = 1.0 + 2 / 32
# A weight of the decoder in groups of 128, with a float16 scale, a zero and an index each.
GPTQ_BYTES = 0.53
# A weight of the decoder as bitsandbytes writes it, scales included.
BNB_BYTES = {"nf4": 0.56, "int8": 1.0}


@dataclass(frozen=True)
class Weights:
    """Numbers of weights: of the decoder's matrices, of one layer of them, of the embedding table,
    of the output head (0 where the table serves), of the vision tower."""

    decoder: int
    layer: int
    table: int
    head: int
    vision: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Weights:
        """From a `config.json`, also of transformers 4, where the text settings lie on top.

        Raises ArtifactError when it lacks one of them.
        """
        text = config.get("text_config") or config
        vision = config.get("vision_config") or {}
        try:
            hidden, inner = text["hidden_size"], text["intermediate_size"]
            heads, shared = text["num_attention_heads"], text["num_key_value_heads"]
            size = text.get("head_dim") or hidden // heads
            layer = hidden * size * (2 * heads + 2 * shared) + 3 * hidden * inner
            table = text["vocab_size"] * hidden
            tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
            wide = vision.get("hidden_size", 0)
            block = 4 * wide * wide + 3 * wide * vision.get("intermediate_size", 0)
            merged = 4 * wide
            tower = vision.get("depth", 0) * block + merged * merged + merged * hidden
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"config.json: {error} is missing") from None
        return cls(layer * text["num_hidden_layers"], layer, table, 0 if tied else table, tower)

    @property
    def total(self) -> int:
        """All of them."""
        return self.decoder + self.table + self.head + self.vision


TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "in_channels": 3,
}
# Text settings of the released models.
SHAPES: dict[str, dict[str, Any]] = {
    "3B": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
PROGUARD = {name: Weights.of({**shape, "vision_config": TOWER}) for name, shape in SHAPES.items()}


@dataclass(frozen=True)
class Need:
    """Bytes: kept on disk after a step, beyond that while it runs, and memory at its peak.

    Files that are hard links to those of another step count for both.
    """

    kept: float
    scratch: float
    memory: float


def need(step: Step, weights: Weights, *, vision: bool = True) -> Need:
    """What a step takes. vision: whether the tower is part of it."""
    tower = weights.vision if vision else 0
    half = 2.0 * weights.total
    quantized = half - (BYTES["float16"] - GPTQ_BYTES) * weights.decoder
    if step.stage == "onnx":
        precision = str(step.options.get("precision", "int4"))
        parts = onnx_parts(step, weights, tower)
        whole = 4.0 * weights.decoder
        result = whole if precision == "fp32" else parts[0]
        return Need(sum(parts), whole, max(0.9 * half, result) + 1.5 * GB)
    if step.stage == "ranges":
        return Need(0.01 * GB, 0.0, half + 1.5 * GB)
    if step.stage in ("gptq", "rtn", "trtllm"):
        memory = half + 60.0 * weights.layer if step.stage == "gptq" else 16.0 * weights.layer
        return Need(quantized, 0.0, memory + 1.5 * GB)
    if step.stage == "edgellm":
        # The graphs, and beside them the folder that engines are built from.
        return Need(2.2 * quantized, 0.0, 2.0 * half + 2.0 * GB)
    if step.stage == "bnb":
        a_weight = BNB_BYTES[str(step.options.get("kind", "nf4"))]
        return Need(half - (2.0 - a_weight) * weights.decoder, 0.0, 1.3 * half)
    if step.stage == "transformers":
        return Need(quantized if "gptq" in step.inputs else half, 0.0, 1.0 * GB)
    return Need(0.1 * GB, 0.0, 1.5 * GB)


def onnx_parts(step: Step, weights: Weights, tower: int) -> tuple[float, float, float]:
    """Bytes of an ONNX artifact's decoder, of its tables, and of a vision tower of so many
    weights."""
    tables = (weights.table + weights.head) * BYTES[str(step.options.get("embeddings", "int8"))]
    vision = tower * BYTES[str(step.options.get("vision_precision", "fp16w"))]
    return weights.decoder * _decoder_bytes(step), tables, vision


def reference_memory(weights: Weights) -> float:
    """Bytes that judging with the checkpoint itself in float32 takes."""
    return 4.0 * weights.total + 1.5 * GB


def check_disk(recipe: Recipe, weights: Weights, work: Path, *, vision: bool = True) -> float:
    """Bytes of disk that the recipe takes; raises ArtifactError where fewer are free."""
    needs = [need(step, weights, vision=vision) for step in recipe.steps]
    wanted = sum(of.kept for of in needs) + max(of.scratch for of in needs)
    place = next(p for p in (work, *work.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise ArtifactError(
            f"{place}: {free / GB:.1f} GB are free and {recipe.name} takes about "
            f"{wanted / GB:.1f} GB; --work names a folder on another disk"
        )
    return wanted


def free_memory() -> float | None:
    """Bytes of memory that can be had, where the system tells."""
    memory = system.memory()
    return None if memory is None else float(memory.available)


def _decoder_bytes(step: Step) -> float:
    precision = str(step.options.get("precision", "int4"))
    if precision in BYTES and precision != "int8":
        return BYTES[precision]
    block = 128 if "gptq" in step.inputs else int(step.options.get("block_size", 32))
    if precision == "w8a8":
        return 1.0
    bits = 4 if precision == "int4" else 8
    scale = 2 if step.options.get("compact_scales") else 4
    return bits / 8 + (scale + bits / 8) / block
