"""The vision tower in ONNX, and a cache of the features it gave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.engine.vision_layout import vision_layout
from proguard_edge.errors import EngineError
from proguard_edge.image import Patches

Features = NDArray[np.float32]
CACHE_BYTES = 64 << 20


class VisionTower:
    """Features of an image, float32 [tokens, H]; equal images are computed once.

    The cache key is a digest of all pixels with their shape and settings, never a part of them:
    a wrong hit would judge another picture.
    """

    def __init__(self, run: Callable[[dict[str, Any]], Features], settings: dict[str, Any]) -> None:
        self._run, self._settings = run, settings
        self._cache: OrderedDict[str, Features] = OrderedDict()
        self._bytes = 0

    def features(self, patches: Patches) -> Features:
        """Raises EngineError when the tower's output does not match the grid."""
        key = patches.digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        layout = vision_layout([patches.grid], **self._settings)
        features = self._run(
            {
                "pixels": patches.pixels,
                "cos": layout.cos,
                "sin": layout.sin,
                "perm": layout.perm,
                "inv": layout.inv,
                "window_ids": layout.window_ids,
                "frame_ids": layout.frame_ids,
            }
        )
        if len(features) != patches.n_tokens:
            raise EngineError(f"{len(features)} image features for {patches.n_tokens} tokens")
        self._remember(key, features)
        return features

    def _remember(self, key: str, features: Features) -> None:
        self._cache[key] = features
        self._bytes += features.nbytes
        while self._bytes > CACHE_BYTES and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._bytes -= old.nbytes
