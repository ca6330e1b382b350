"""Key/value buffers that are reused, and the prefix that already stands in them.

A buffer is one block of memory for all layers. The model reads and writes it in place (past and
present are the same memory), so rewinding to the prefix is nothing but a shorter attention mask:
a request with the prefix of the last one copies nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.cache import Cache

Array = NDArray[np.float32]
MEMORY_BYTES = 512 << 20
DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class KVShape:
    """Layers, key/value heads and head size of a decoder."""

    layers: int
    heads: int
    head_dim: int

    def zeros(self, tokens: int) -> Array:
        """float32 [layers, 2, 1, heads, tokens, head_dim]; axis 1 is key, value."""
        return np.zeros((self.layers, 2, 1, self.heads, tokens, self.head_dim), np.float32)


class KVBuffer:
    """Room for `capacity` tokens; `prefix` is the key of what stands in its first tokens.

    bound: what an engine made of `data`'s addresses, None again once these have changed.
    """

    def __init__(self, shape: KVShape, capacity: int) -> None:
        self.data = shape.zeros(capacity)
        self.prefix: str | None = None
        self.bound: Any = None

    @property
    def capacity(self) -> int:
        return int(self.data.shape[4])

    def put(self, state: Array, key: str | None) -> None:
        """Copy `state` [layers, 2, 1, heads, P, head_dim] to the front."""
        self.data[:, :, :, :, : state.shape[4]] = state
        self.prefix = key

    def grow(self, shape: KVShape, capacity: int, used: int) -> None:
        """Move the first `used` tokens into larger memory."""
        old, self.bound = self.data, None
        self.data = shape.zeros(capacity)
        self.data[:, :, :, :, :used] = old[:, :, :, :, :used]


class PrefixStore:
    """Prefix states in memory, and on disk between runs, by a digest of all that shapes them."""

    def __init__(self, cache: Cache, shape: KVShape, identity: tuple[str, ...]) -> None:
        self._cache, self._shape = cache, shape
        self._identity = "\0".join(identity).encode()
        self._memory: OrderedDict[str, Array] = OrderedDict()

    def key(self, prefix: NDArray[np.int64]) -> str:
        """sha256 (hex) over the identity (artifact, precision, runtime version) and the ids."""
        return hashlib.sha256(self._identity + b"\0" + prefix.tobytes()).hexdigest()

    def get(self, key: str, tokens: int) -> Array | None:
        """The state [layers, 2, 1, heads, P, head_dim], or None. A damaged file counts as none."""
        if key not in self._memory:
            state = self.stored(key, tokens)
            if state is None:
                return None
            self._remember(key, state)
        self._memory.move_to_end(key)
        return self._memory[key]

    def stored(self, key: str, tokens: int) -> Array | None:
        """What `get` finds on disk."""
        path = self._cache.path(f"prefix/{key}")
        if path is None:
            return None
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        expected = self._shape.zeros(tokens)
        body = raw[32:]
        if len(body) != expected.nbytes or hashlib.sha256(body).digest() != raw[:32]:
            return None
        return np.frombuffer(body, np.float32).reshape(expected.shape)

    def put(self, key: str, state: Array) -> None:
        """Keep a state in memory and, where the cache folder allows, on disk."""
        state = np.ascontiguousarray(state)
        self._remember(key, state)
        body = state.tobytes()
        self._cache.write(f"prefix/{key}", hashlib.sha256(body).digest(), body)
        self._cache.prune("prefix", DISK_BYTES)

    def _remember(self, key: str, state: Array) -> None:
        self._memory[key] = state
        while len(self._memory) > 1 and sum(s.nbytes for s in self._memory.values()) > MEMORY_BYTES:
            self._memory.popitem(last=False)
