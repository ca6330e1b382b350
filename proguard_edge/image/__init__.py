"""Images on their way to the model: bytes to checked RGB views, views to pixel patches."""

from __future__ import annotations

from proguard_edge.image.load import ACCEPTED, DEFAULT_LIMITS, ImageLimits, View, load_image
from proguard_edge.image.preprocess import ImageProcessor, Patches

__all__ = [
    "ACCEPTED",
    "DEFAULT_LIMITS",
    "ImageLimits",
    "ImageProcessor",
    "Patches",
    "View",
    "load_image",
]
