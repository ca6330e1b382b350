"""RGB picture to the patches that the Qwen2-VL vision tower reads.

The values are those of transformers' Pillow image processor, bit for bit: released weights were
trained on them. A pixel takes one of 256 values, so rescaling and normalizing are a table of
3 x 256 float32 entries, computed in the reference's order (float64 product with 1/255, rounded to
float32, then minus mean and divided by std in float32).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from proguard_edge.errors import ArtifactError, ImageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_MAX_ASPECT = 200


@dataclass(frozen=True, eq=False)
class Patches:
    """One picture as the vision tower reads it.

    pixels: float32 [t*h*w, 3 * temporal_patch_size * patch_size**2], patches of one merge block
    next to each other. grid: (t, h, w) in patches, t = 1. processor: the settings that made it.
    """

    pixels: npt.NDArray[np.float32]
    grid: tuple[int, int, int]
    processor: ImageProcessor

    @property
    def n_tokens(self) -> int:
        """Image tokens in the prompt: one a merge block."""
        t, h, w = self.grid
        return t * h * w // self.processor.merge_size**2

    def picture(self) -> Image.Image:
        """The RGB picture that these are the patches of, bit for bit."""
        settings = self.processor
        _, rows, columns = self.grid
        side, merge = settings.patch_size, settings.merge_size
        first = self.pixels.reshape(rows * columns, 3, settings.temporal_patch_size, -1)[:, :, 0]
        values = np.empty(first.shape, np.uint8)
        for channel, table in enumerate(settings._table):
            values[:, channel] = np.searchsorted(table, first[:, channel])
        blocks = values.reshape(rows // merge, columns // merge, merge, merge, 3, side, side)
        whole = blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * side, columns * side, 3)
        return Image.fromarray(np.ascontiguousarray(whole))

    def digest(self) -> str:
        """Hex blake2b-256 over the settings, the grid, and every byte of the pixels.

        A cache key without the grid has served one picture's features for another's
        (CVE-2025-46722); in a guard that is a false "safe".
        """
        pixels = np.ascontiguousarray(self.pixels)
        head = [self.processor.to_json(), list(self.grid), list(pixels.shape), pixels.dtype.str]
        state = hashlib.blake2b(json.dumps(head, sort_keys=True).encode() + b"\n", digest_size=32)
        state.update(pixels.data)
        return state.hexdigest()


@dataclass(frozen=True)
class ImageProcessor:
    """Settings of the preprocessing. Sizes are in pixels; min_pixels and max_pixels are areas.

    Raises ArtifactError when the settings make no sense: they come with an artifact.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        for name in (
            "patch_size",
            "merge_size",
            "temporal_patch_size",
            "min_pixels",
            "max_pixels",
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ArtifactError(
                    f"image processor: {name} must be a whole number above 0, not {value!r}"
                )
        if self.min_pixels > self.max_pixels:
            raise ArtifactError("image processor: min_pixels is above max_pixels")
        object.__setattr__(self, "mean", _three_numbers("mean", self.mean))
        object.__setattr__(self, "std", _three_numbers("std", self.std))
        if min(self.std) <= 0:
            raise ArtifactError("image processor: every std must be above 0")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageProcessor:
        """The inverse of `to_json`. Raises ArtifactError for missing, unknown or wrong values."""
        expected = set(cls.__dataclass_fields__)
        if set(values) != expected:
            odd = ", ".join(sorted(set(values) ^ expected))
            raise ArtifactError(f"image processor: missing or unknown settings: {odd}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the artifact's `processor.json`."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """Read a Qwen2.5-VL `preprocessor_config.json`, in the old or the new spelling.

        Raises ArtifactError when it asks for steps other than Qwen2-VL's.
        """
        _check_hf_steps(config)
        size = config.get("size") or {}
        return cls(
            patch_size=config.get("patch_size", 14),
            merge_size=config.get("merge_size", 2),
            temporal_patch_size=config.get("temporal_patch_size", 2),
            min_pixels=_first(
                config.get("min_pixels"), size.get("shortest_edge"), size.get("min_pixels"), 56 * 56
            ),
            max_pixels=_first(
                config.get("max_pixels"),
                size.get("longest_edge"),
                size.get("max_pixels"),
                28 * 28 * 1280,
            ),
            mean=_first(config.get("image_mean"), CLIP_MEAN),
            std=_first(config.get("image_std"), CLIP_STD),
        )

    def smart_resize(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of the resized picture, multiples of patch_size * merge_size.

        The area is kept between min_pixels and max_pixels, and the aspect ratio about the same.
        Raises ImageError above an aspect ratio of 200, where the model has no valid input.
        """
        if max(height, width) > _MAX_ASPECT * min(height, width):
            raise ImageError(
                f"a {width}x{height} image is more than {_MAX_ASPECT} times longer than wide; "
                "cut it into pieces"
            )
        block = self.patch_size * self.merge_size
        # Python's round goes to the even neighbour at .5, and the reference relies on it.
        rows, columns = round(height / block), round(width / block)
        if rows * columns * block**2 > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(1, math.floor(height / shrink / block))
            columns = max(1, math.floor(width / shrink / block))
        elif rows * columns * block**2 < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows = math.ceil(height * grow / block)
            columns = math.ceil(width * grow / block)
        return rows * block, columns * block

    def __call__(self, image: Image.Image) -> Patches:
        """Patches of an RGB picture, such as `View.image`.

        Raises ImageError for another mode or an aspect ratio above 200.
        """
        if image.mode != "RGB":
            raise ImageError(f"an RGB image is needed, not mode {image.mode}; use load_image")
        height, width = self.smart_resize(image.height, image.width)
        small = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        side, merge = self.patch_size, self.merge_size
        rows, columns = height // side, width // side
        blocks = small.reshape(rows // merge, merge, side, columns // merge, merge, side, 3)
        ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, side * side)
        pixels = np.empty(
            (rows * columns, 3, self.temporal_patch_size, side * side), dtype=np.float32
        )
        for channel in range(3):
            values = self._table[channel][ordered[:, channel]]
            pixels[:, channel] = values[:, None]
        return Patches(pixels.reshape(rows * columns, -1), (1, rows, columns), self)

    @cached_property
    def _table(self) -> npt.NDArray[np.float32]:
        """float32 [3, 256]: the normalized value of every channel's every byte."""
        scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        mean = np.array(self.mean, dtype=np.float32)[:, None]
        std = np.array(self.std, dtype=np.float32)[:, None]
        return (scaled - mean) / std


def _three_numbers(name: str, values: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ArtifactError(f"image processor: {name} must be three numbers") from None
    if not all(map(math.isfinite, (red, green, blue))):
        raise ArtifactError(f"image processor: {name} must be three finite numbers")
    return red, green, blue


def _first(*values: Any) -> Any:
    """The first value that was given at all; 0 counts as given."""
    return next((value for value in values if value is not None), None)


def _check_hf_steps(config: Mapping[str, Any]) -> None:
    for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if not _first(config.get(step), True):
            raise ArtifactError(f"preprocessor config: {step} is off; only Qwen2-VL's steps work")
    if _first(config.get("resample"), 3) != Image.Resampling.BICUBIC:
        raise ArtifactError("preprocessor config: resample must be 3 (bicubic)")
    if not math.isclose(_first(config.get("rescale_factor"), 1 / 255), 1 / 255, rel_tol=1e-9):
        raise ArtifactError("preprocessor config: rescale_factor must be 1/255")
