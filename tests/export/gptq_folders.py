"""Calibration samples, and GPTQ folders with one thing wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from proguard_edge.export.checkpoint import image_processor
from proguard_edge.export.tensor_file import TensorFolder, write_tensors


def altered(folder: Path, out: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A copy of a model folder with the tensor `name` changed."""
    copied = shutil.copytree(folder, out)
    tensors = TensorFolder(folder)
    new = change(tensors.array(name).copy())
    specs = {n: tensors.spec(n) for n in tensors.names()}
    write_tensors(
        copied / "model.safetensors", specs, lambda n: new if n == name else tensors.raw(n)
    )
    return copied


def without(folder: Path, out: Path, layer: str) -> Path:
    """A copy of a model folder that lacks the tensors of a layer."""
    copied = shutil.copytree(folder, out)
    tensors = TensorFolder(folder)
    specs = {n: tensors.spec(n) for n in tensors.names() if not n.startswith(f"{layer}.")}
    write_tensors(copied / "model.safetensors", specs, tensors.raw)
    return copied


@dataclass(frozen=True)
class Sample:
    """What calibration reads of `train.sft_data.Sample`."""

    ids: list[int]
    images: tuple[Any, ...]


def make_samples(checkpoint: Path, image_token_id: int, count: int = 8) -> list[Sample]:
    """Random ids, every second sample with a picture of noise."""
    rng = np.random.default_rng(0)
    process = image_processor(checkpoint)
    samples = []
    for index in range(count):
        ids, images = rng.integers(0, 400, 40).tolist(), ()
        if index % 2:
            noise = rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)
            images = (process(Image.fromarray(noise)),)
            ids[10:10] = [image_token_id] * images[0].n_tokens
        samples.append(Sample(ids, images))
    return samples
