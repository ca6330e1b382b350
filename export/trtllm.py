"""A GPTQ checkpoint in ModelOpt's unified layout, which TensorRT-LLM serves: nothing is rounded.

    python -m proguard_edge.export.trtllm GPTQ_FOLDER OUT

For a layer X with `in` inputs and `out` outputs: X.weight uint8 [out/2, in], two signed 4-bit
numbers a byte, output 2i in the low half and 2i + 1 in the high one; X.weight_scale float16
[out, in/g]; X.pre_quant_scale [in], ones, because nothing was smoothed. All else is copied byte for
byte, one tensor at a time. TensorRT-LLM itself has to be run on a machine with an NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import copy_companions, copy_generation
from proguard_edge.export.extras import versions
from proguard_edge.export.folder import staged
from proguard_edge.export.gptq_layout import MIDDLE, PARTS, GptqCheckpoint, GptqLinear, specs
from proguard_edge.export.tensor_file import Spec, TensorFolder, write_index, write_tensors

QUANT_CONFIG = "hf_quant_config.json"
# What stays as it was; TensorRT-LLM matches these against its own and the checkpoint's names.
EXCLUDED = ("lm_head", "visual*", "model.visual*")
NOT_RUN = (
    "TensorRT-LLM itself was not run: that takes an NVIDIA GPU; there, start "
    "`trtllm-serve FOLDER --extra_llm_api_options FOLDER/serve.yaml` and compare its verdicts"
)
SERVE = """\
# Options for `trtllm-serve FOLDER --extra_llm_api_options FOLDER/serve.yaml`.
# The policy stands first in every prompt: its keys and values are computed once and then reused.
kv_cache_config:
  enable_block_reuse: true
  free_gpu_memory_fraction: 0.85
# Long contents are read in pieces between the steps of other requests.
enable_chunked_prefill: true
# A verdict's few decoding steps are launched as one recorded graph for each batch size.
cuda_graph_config:
  enable_padding: true
  max_batch_size: 64
"""
README = """\
# {name} for TensorRT-LLM

Weights of 4 bits in ModelOpt's layout (W4A16_AWQ, groups of {group}), the same integers and scales
as the GPTQ checkpoint they were converted from. Serve with

    trtllm-serve FOLDER --extra_llm_api_options FOLDER/serve.yaml

The files are exact; a model that runs in bfloat16 rounds the float16 scales once more when it is
loaded. The conversion was verified by dequantizing both sides; TensorRT-LLM itself was not run
when this folder was made.
"""
ONES = {"BF16": np.uint16(0x3F80), "F16": np.uint16(0x3C00)}


def convert_trtllm(
    gptq: Path, out: Path, *, report: Callable[[str], None] = lambda _: None
) -> Path:
    """Write the folder `out`, whole or not at all, and verify it; returns `out`.

    Raises ArtifactError: no GPTQ folder, levels that are not symmetric about 8, an odd number of
    outputs, or `out` is not empty.
    """
    source = GptqCheckpoint(gptq)
    with staged(out, force=False) as folder:
        copy_companions(gptq, folder)
        _write_settings(source, folder)
        written = {}
        for name, file in source.tensors.files.items():
            report(f"{name}, {len(file.specs)} tensors")
            shard = _Shard(source, file.specs)
            write_tensors(folder / name, shard.specs, shard.content)
            written[name] = shard.specs
        write_index(folder, written)
        count = verify_trtllm(gptq, folder)
        report(f"{count} weights compared with {gptq.name}: equal")
    report(NOT_RUN)
    return out


def verify_trtllm(gptq: Path, out: Path) -> int:
    """Raises ArtifactError unless `out` dequantizes to the bytes that the GPTQ folder dequantizes
    to, and holds its other tensors unchanged; the number of weights compared."""
    source, target = GptqCheckpoint(gptq), TensorFolder(out)
    settings = json.loads((out / QUANT_CONFIG).read_bytes())["quantization"]
    if settings["group_size"] != source.group_size:
        raise ArtifactError(f"{out}: groups of {settings['group_size']}, not {source.group_size}")
    count = 0
    for name, linear in source:
        found = unpack(
            target.array(f"{name}.weight"), target.array(f"{name}.weight_scale"), source.group_size
        )
        if found.tobytes() != linear.dequantize().tobytes():
            raise ArtifactError(f"{out}: {name} is not what it is in {gptq}")
        count += found.size
    for name in source.others():
        if target.spec(name) != source.tensors.spec(name) or (
            target.raw(name) != source.tensors.raw(name)
        ):
            raise ArtifactError(f"{out}: {name} is not what it is in {gptq}")
    return count


def pack(linear: GptqLinear) -> NDArray[np.uint8]:
    """uint8 [out/2, in] of a symmetric layer. Raises ArtifactError: not symmetric, or `out` odd."""
    if not linear.symmetric:
        raise ArtifactError("zeros other than 8: quantize with sym True")
    if linear.levels.shape[1] % 2:
        raise ArtifactError(f"{linear.levels.shape[1]} outputs, an even number is needed")
    signed = ((linear.levels - np.uint8(MIDDLE)) & np.uint8(15)).T
    packed: NDArray[np.uint8] = signed[0::2] | np.left_shift(signed[1::2], 4, dtype=np.uint8)
    return np.ascontiguousarray(packed)


def unpack(
    weight: NDArray[np.uint8], scale: NDArray[np.float16], group_size: int
) -> NDArray[np.float32]:
    """float32 [in, out] of `X.weight` and `X.weight_scale`."""
    out, rows = 2 * weight.shape[0], weight.shape[1]
    signed = np.empty((out, rows), np.int8)
    # Shifted to the top and back, so that the sign bit of four bits becomes that of eight.
    signed[0::2] = (weight << np.uint8(4)).view(np.int8) >> 4
    signed[1::2] = weight.view(np.int8) >> 4
    values = signed.reshape(out, -1, group_size).astype(np.float32)
    values *= scale.astype(np.float32)[:, :, None]
    return np.ascontiguousarray(values.reshape(out, rows).T)


class _Shard:
    """One file of the new folder: its tensors, made when they are asked for."""

    def __init__(self, source: GptqCheckpoint, old: Mapping[str, Spec]) -> None:
        self._source = source
        self._ones = ONES.get(_dtype(source.config), ONES["F16"])
        rounded = set(source.names)
        self._made: dict[str, tuple[str, str]] = {}
        self.specs: dict[str, Spec] = {}
        for name, spec in old.items():
            layer, _, part = name.rpartition(".")
            if layer not in rounded or part not in PARTS:
                self.specs[name] = spec
            elif part == "qweight":
                self._add(layer, 8 * spec.shape[0], spec.shape[1])

    def content(self, name: str) -> memoryview | NDArray[Any]:
        """The bytes of a tensor. Raises ArtifactError: see `pack`."""
        if name not in self._made:
            raw: memoryview = self._source.tensors.raw(name)
            return raw
        layer, part = self._made[name]
        if part == "pre_quant_scale":
            return np.full(self.specs[name].shape, self._ones)
        if part == "weight_scale":
            return np.ascontiguousarray(self._source.tensors.array(f"{layer}.scales").T)
        linear = self._source.linear(layer)
        try:
            return pack(linear)
        except ArtifactError as error:
            raise ArtifactError(f"{self._source.folder}: {layer}: {error}") from None

    def _add(self, layer: str, rows: int, out: int) -> None:
        groups = specs(rows, out, self._source.group_size)["scales"].shape[0]
        kind = "BF16" if self._ones == ONES["BF16"] else "F16"
        for part, spec in (
            ("weight", Spec("U8", (out // 2, rows))),
            ("weight_scale", Spec("F16", (out, groups))),
            ("pre_quant_scale", Spec(kind, (rows,))),
        ):
            self.specs[f"{layer}.{part}"] = spec
            self._made[f"{layer}.{part}"] = layer, part


def _write_settings(source: GptqCheckpoint, folder: Path) -> None:
    config = {k: v for k, v in source.config.items() if k != "quantization_config"}
    quantization = {
        "quant_algo": "W4A16_AWQ",
        "kv_cache_quant_algo": None,
        "group_size": source.group_size,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "exclude_modules": list(EXCLUDED),
    }
    version = versions().get("proguard-edge", "unknown")
    quant = {
        "producer": {"name": "proguard-edge", "version": version},
        "quantization": quantization,
    }
    for name, content in (("config.json", config), (QUANT_CONFIG, quant)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    copy_generation(source.folder, folder)
    # Settings of GPTQ would make a reader that knows both layouts take this folder for the other.
    for name in ("quantize_config.json", "quant_log.csv"):
        (folder / name).unlink(missing_ok=True)
    (folder / "serve.yaml").write_text(SERVE, encoding="utf-8")
    name = source.folder.resolve().name
    readme = README.format(name=name, group=source.group_size)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _dtype(config: Mapping[str, Any]) -> str:
    text = config.get("text_config") or {}
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    return "BF16" if named == "bfloat16" else "F16"


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gptq", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    convert_trtllm(args.gptq, args.out, report=print)


if __name__ == "__main__":
    main()
