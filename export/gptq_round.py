"""Plain rounding, written in the layout of GPTQ: for a comparison with GPTQ, and as its stand-in.

    python -m proguard_edge.export.gptq_round CHECKPOINT OUT [--group-size 128]

Takes minutes and no calibration where GPTQ takes hours, so that every stage behind it can be run
on a model of real size. It loses more than GPTQ: `quantization.json` says which of them it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint, copy_companions, copy_generation, read_json
from proguard_edge.export.extras import versions
from proguard_edge.export.folder import staged
from proguard_edge.export.gptq_layout import (
    DECODER,
    PARTS,
    RECORD,
    GptqCheckpoint,
    GptqLinear,
    pack_linear,
    specs,
)
from proguard_edge.export.rounding import round_blocks
from proguard_edge.export.tensor_file import Spec, TensorFolder, write_index, write_tensors

END = ".weight"


def round_to_gptq(
    checkpoint: Path,
    out: Path,
    group_size: int = 128,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Round the decoder's projections of a checkpoint folder to nearest; the new folder `out`.

    4 bits, symmetric, float16 scales, groups of `group_size` inputs; one matrix in memory at a
    time. All other tensors are copied as they are. Raises ArtifactError: not a checkpoint, a
    matrix that groups do not divide, or `out` is not empty.
    """
    source = Checkpoint(checkpoint)
    check_groups(checkpoint, group_size)
    with staged(out, force=False) as folder:
        copy_companions(checkpoint, folder)
        _write_settings(source, folder, group_size)
        written = {}
        tensors = TensorFolder(checkpoint)
        for name, file in tensors.files.items():
            report(name)
            writer = _Shard(source, file.specs, tensors, group_size)
            write_tensors(folder / name, writer.specs, writer.content)
            written[name] = writer.specs
        write_index(folder, written)
    return out


def projections(tensors: TensorFolder) -> dict[str, str]:
    """From `layers.N.mlp.up_proj` and so on to the layer's name in a checkpoint folder."""
    found = {}
    for name in tensors.names():
        layer = name.removesuffix(END)
        match = DECODER.search(layer)
        if match is not None and name.endswith(END) and "visual" not in name:
            found[match[1]] = layer
    return found


def check_groups(checkpoint: Path, group_size: int) -> None:
    """Raises ArtifactError, naming the largest that fits, unless groups divide the inputs of all
    projections and the outputs can be packed."""
    tensors = TensorFolder(checkpoint)
    shapes = {n: tensors.spec(n + END).shape for n in projections(tensors).values()}
    if not shapes:
        raise ArtifactError(f"{checkpoint}: holds no projection of a decoder to round")
    fitting = [g for g in (128, 64, 32, 16) if not any(s[1] % g for s in shapes.values())]
    if group_size < 8 or group_size % 8 or any(s[1] % group_size for s in shapes.values()):
        name, shape = next(
            ((n, s) for n, s in shapes.items() if group_size < 1 or s[1] % group_size),
            next(iter(shapes.items())),
        )
        largest = f"the largest that fits is {fitting[0]}" if fitting else "none fits"
        raise ArtifactError(
            f"{name} has {shape[1]} inputs, which groups of {group_size} do not divide; {largest}"
        )
    for name, shape in shapes.items():
        if shape[0] % 8:
            raise ArtifactError(f"{name} has {shape[0]} outputs; a multiple of 8 is needed")


def round_matrix(weight: NDArray[np.float32], group_size: int) -> GptqLinear:
    """Round `weight` [out, in] to nearest, symmetric. Raises ArtifactError: see `round_blocks`."""
    out, rows = weight.shape
    blocks = round_blocks(
        np.ascontiguousarray(weight).reshape(-1, group_size), 4, symmetric=True, half_scales=True
    )
    groups = rows // group_size
    return GptqLinear(
        np.ascontiguousarray(blocks.levels.reshape(out, rows).T),
        np.ascontiguousarray(blocks.zeros.reshape(out, groups).T),
        np.ascontiguousarray(blocks.scales.reshape(out, groups).T.astype(np.float16)),
        group_size,
    )


class _Shard:
    """One file of the new folder: its tensors, made when they are asked for."""

    def __init__(
        self, source: Checkpoint, old: dict[str, Spec], tensors: TensorFolder, group_size: int
    ) -> None:
        self._source, self._tensors, self._group = source, tensors, group_size
        self._rounded = set(projections(tensors).values())
        self._last: tuple[str, dict[str, NDArray[Any]]] = ("", {})
        self.specs: dict[str, Spec] = {}
        for name, spec in old.items():
            layer = name.removesuffix(END)
            if name.endswith(END) and layer in self._rounded:
                out, rows = spec.shape
                parts = specs(rows, out, group_size)
                self.specs |= {f"{layer}.{part}": spec for part, spec in parts.items()}
            else:
                self.specs[name] = spec

    def content(self, name: str) -> memoryview | NDArray[Any]:
        """The bytes of a tensor. A layer's four come one behind the other, so one is kept."""
        layer, _, part = name.rpartition(".")
        if layer not in self._rounded or part not in PARTS:
            raw: memoryview = self._tensors.raw(name)
            return raw
        if self._last[0] != layer:
            weight = self._source.tensor(layer + END)
            self._last = layer, pack_linear(round_matrix(weight, self._group))
        return self._last[1][part]


def _write_settings(source: Checkpoint, folder: Path, group_size: int) -> None:
    config = read_json(source.folder / "config.json")
    config["quantization_config"] = {
        "bits": 4,
        "checkpoint_format": "gptq",
        "desc_act": False,
        "group_size": group_size,
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "sym": True,
    }
    record = {"method": "round to nearest", "bits": 4, "group_size": group_size, **versions()}
    for name, content in (("config.json", config), (RECORD, record)):
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    copy_generation(source.folder, folder)


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--group-size", type=int, default=128)
    args = parser.parse_args()
    out = round_to_gptq(args.checkpoint, args.out, args.group_size, report=print)
    print(f"{len(GptqCheckpoint(out).names)} matrices rounded, {out}")


if __name__ == "__main__":
    main()
