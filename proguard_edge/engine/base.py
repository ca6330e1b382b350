"""The protocol of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from proguard_edge.image import Patches

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass
class Timings:
    """Milliseconds that a sequence spent in each phase."""

    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        begin = perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + 1000 * (perf_counter() - begin)


class EngineSequence(Protocol):
    """One growing sequence of tokens, which starts with a prefix. Close it after use."""

    timings: Timings

    @property
    def length(self) -> int:
        """Tokens so far, the prefix included."""

    def extend(
        self,
        ids: Ids,
        images: Sequence[Patches] = (),
        candidates: Ids | None = None,
        phase: str = "prefill",
    ) -> Logits:
        """Append `ids` int64 [S]; logits float32 of the token after the last one.

        `images` fill the image tokens among `ids`, in order. With `candidates` [N] only their
        logits are computed, [N]; without, those of the whole vocabulary. `phase` is the name
        under which the time is counted. Raises EngineError; LimitError when the sequence grows
        beyond the model's context.
        """

    def close(self) -> None:
        """Give the buffers back."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Choosing(Protocol):
    """A sequence that can name the likeliest candidate without the logits of all of them.

    A served model is one: it lists the likeliest tokens and no others.
    """

    def choose(
        self, ids: Ids, images: Sequence[Patches], candidates: Ids, phase: str = "decode"
    ) -> tuple[int, float]:
        """Append `ids` as `extend` does; index into `candidates` of the likeliest, and log share.

        candidates: int64 [N], ascending. The share is the probability of the likeliest among the
        candidates, or a lower bound of it. Raises as `extend` does.
        """


@runtime_checkable
class Keeping(Protocol):
    """An engine that keeps the states of prefixes between runs."""

    def keeps(self, prefix: Ids) -> bool:
        """Whether that of `prefix` int64 [P] lies in the cache folder, whole."""


class Engine(Protocol):
    """A loaded model.

    device: where it computes: "cpu" or "cuda"; "server" where that is not ours to know.
    """

    kind: str
    device: str
    context: int
    image_token_id: int | None

    def start(self, prefix: Ids) -> EngineSequence:
        """A sequence that begins with `prefix` int64 [P], whose state is cached by its ids."""

    def close(self) -> None:
        """Free sessions and buffers."""


def first_line(error: BaseException) -> str:
    """What a library's error says, on one line of at most 300 characters; its type if nothing."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
