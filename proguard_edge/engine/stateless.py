"""Sequences of models that are asked from the first token on at every step.

A server and TensorRT-LLM's LLM take a whole prompt and give one next token; what they computed of
its beginning before, they find in a cache of their own. So a sequence holds nothing but its ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from proguard_edge.closing import Closing
from proguard_edge.engine.base import Ids, Logits, Timings
from proguard_edge.errors import EngineError, LimitError
from proguard_edge.image import Patches


class Stateless(Protocol):
    """An engine that is given everything at every step."""

    context: int

    def next_logits(self, ids: Ids, images: Sequence[Patches], candidates: Ids | None) -> Logits:
        """float32 [N], or [V] without candidates: of the token behind `ids`. Raises EngineError."""


class StatelessSequence(Closing):
    """See `EngineSequence`."""

    def __init__(self, engine: Stateless, prefix: Ids) -> None:
        self._engine = engine
        self.timings = Timings()
        self._ids = np.array(prefix, np.int64)
        self._images: list[Patches] = []
        self._closed = False

    @property
    def length(self) -> int:
        return len(self._ids)

    def extend(
        self,
        ids: Ids,
        images: Sequence[Patches] = (),
        candidates: Ids | None = None,
        phase: str = "prefill",
    ) -> Logits:
        """See `EngineSequence.extend`."""
        with self.timings.phase(phase):
            self.append(ids, images)
            return self._engine.next_logits(self._ids, self._images, candidates)

    def append(self, ids: Ids, images: Sequence[Patches]) -> Ids:
        """All ids, the new ones included. Raises EngineError, LimitError."""
        if self._closed or not len(ids):
            raise EngineError("nothing to compute: no tokens, or a closed sequence")
        total = len(self._ids) + len(ids)
        # One place is left for the token that is asked for.
        if total >= self._engine.context:
            raise LimitError(f"{total} tokens, the model reads {self._engine.context - 1} at most")
        self._ids = np.concatenate([self._ids, ids])
        self._images += images
        return self._ids

    def close(self) -> None:
        self._closed = True
