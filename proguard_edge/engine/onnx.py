"""The runtime's engine: ONNX Runtime, one process, no torch.

`decoder.onnx` takes `inputs_embeds` [1, S, H], `position_ids` [3, 1, S], `attention_mask` [1, T]
and the keys and values of the past, and gives the last token's hidden state [1, 1, H] (artifacts
of earlier exports: of all tokens, [1, S, H]); embeddings and output head are memory-mapped tables
outside the graph, so a verdict reads a few rows of the head.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.closing import Closing
from proguard_edge.engine.base import Ids, Logits, Timings, first_line
from proguard_edge.engine.integers import check_products
from proguard_edge.engine.kv import KVBuffer, KVShape, PrefixStore
from proguard_edge.engine.positions import rope_positions
from proguard_edge.engine.table import TokenTable
from proguard_edge.engine.vision import VisionTower
from proguard_edge.errors import ArtifactError, EngineError, LimitError
from proguard_edge.image import Patches

CAPACITY_STEP = 256
# To be raised whenever the meaning of a stored prefix state changes.
STATE_VERSION = "kv/1"


class OnnxEngine:
    """Sessions, tables and buffers of one artifact. Sequences of several threads take turns."""

    kind = "onnx"
    device = "cpu"

    def __init__(self, artifact: Artifact, cache: Cache, threads: int = 0) -> None:
        model = artifact.model
        self.context = int(model["context"])
        self.image_token_id: int | None = model.get("image_token_id")
        self.merge_size = int(model.get("vision", {}).get("merge_size", 2))
        self.shape = KVShape(model["layers"], model["kv_heads"], model["head_dim"])
        self._threads = threads
        self._artifact = artifact
        if artifact.precision == "w8a8":
            check_products()
        self._decoder = self._session("decoder.onnx")
        self.embeddings = TokenTable(artifact, "embeddings", model["vocab"], model["hidden"])
        self.head = (
            TokenTable(artifact, "head", model["vocab"], model["hidden"])
            if "head.npy" in artifact.files
            else self.embeddings
        )
        self._vision: VisionTower | None = None
        identity = (STATE_VERSION, artifact.digest, artifact.precision, ort.__version__)
        self._prefixes = PrefixStore(cache, self.shape, identity)
        self._free: list[KVBuffer] = []
        self.lock = threading.RLock()

    def _session(self, name: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        path = self._artifact.path(name)
        try:
            return ort.InferenceSession(str(path), options, providers=_providers())
        except Exception as error:  # noqa: BLE001 - onnxruntime has no common base class
            raise EngineError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from None

    @property
    def vision(self) -> VisionTower:
        """The vision tower, loaded with the first image."""
        self._check_open()
        if self._vision is None:
            if "vision.onnx" not in self._artifact.files:
                raise ArtifactError("this artifact has no vision tower")
            session = self._session("vision.onnx")
            settings = dict(self._artifact.model["vision"])

            def run(feeds: dict[str, Any]) -> NDArray[np.float32]:
                try:
                    return session.run(["features"], feeds)[0]  # type: ignore[no-any-return]
                except Exception as error:  # noqa: BLE001
                    raise EngineError(f"the vision tower failed: {first_line(error)}") from None

            self._vision = VisionTower(run, settings)
        return self._vision

    def start(self, prefix: Ids) -> OnnxSequence:
        """See `Engine.start`. The prefix is computed at most once per artifact and machine."""
        self._check_open()
        key = self._prefixes.key(prefix)
        sequence = OnnxSequence(self, self._take(key, len(prefix)))
        with self.lock, sequence.timings.phase("prefix"):
            if sequence.buffer.prefix != key:
                state = self._prefixes.get(key, len(prefix))
                if state is None:
                    sequence.compute(prefix)
                    state = sequence.buffer.data[:, :, :, :, : len(prefix)]
                    self._prefixes.put(key, state)
                    sequence.buffer.prefix = key
                else:
                    sequence.buffer.put(state, key)
        sequence.begin(len(prefix))
        return sequence

    def keeps(self, prefix: Ids) -> bool:
        """See `Keeping`."""
        return self._prefixes.stored(self._prefixes.key(prefix), len(prefix)) is not None

    def _take(self, key: str, prefix: int) -> KVBuffer:
        with self.lock:
            for i, buffer in enumerate(self._free):
                if buffer.prefix == key:
                    return self._free.pop(i)
            if self._free and self._free[0].capacity >= prefix + CAPACITY_STEP:
                return self._free.pop(0)
        return KVBuffer(self.shape, _rounded(prefix + CAPACITY_STEP))

    def give_back(self, buffer: KVBuffer) -> None:
        """Buffers of closed sequences wait for the next one, two at most."""
        with self.lock:
            if self._decoder is not None:
                self._free.append(buffer)
                del self._free[:-2]

    def decode(
        self, buffer: KVBuffer, past: int, embeddings: NDArray[np.float32], positions: Ids
    ) -> NDArray[np.float32]:
        """Run the decoder on `embeddings` [S, H] after `past` tokens; hidden states [1 or S, H],
        the last token's at the end.

        Writes keys and values of the S tokens into `buffer`. Raises EngineError.
        """
        self._check_open()
        try:
            return self._run(buffer, past, embeddings, positions)
        except Exception as error:  # noqa: BLE001 - onnxruntime has no common base class
            buffer.prefix = None
            raise EngineError(f"the decoder failed: {first_line(error)}") from None

    def _run(
        self, buffer: KVBuffer, past: int, embeddings: NDArray[np.float32], positions: Ids
    ) -> NDArray[np.float32]:
        binding = self._bound(buffer)
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeddings[None]))
        binding.bind_cpu_input("position_ids", np.ascontiguousarray(positions[:, None]))
        mask = np.ones((1, past + len(embeddings)), np.int64)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("hidden_states")
        self._decoder.run_with_iobinding(binding)
        hidden: NDArray[np.float32] = binding.get_outputs()[-1].numpy()[0]
        return hidden

    def _bound(self, buffer: KVBuffer) -> Any:
        """Keys and values of a buffer as inputs and outputs, once: 120 calls, 1 ms."""
        if buffer.bound is not None:
            return buffer.bound
        binding = self._decoder.io_binding()
        shape = buffer.data.shape[2:]
        for layer in range(self.shape.layers):
            for j, kind in enumerate(("key", "value")):
                at = buffer.data[layer, j].ctypes.data
                # By name: the graph lists all keys before all values.
                for bind, name in (
                    (binding.bind_input, f"past_key_values.{layer}.{kind}"),
                    (binding.bind_output, f"present.{layer}.{kind}"),
                ):
                    bind(name, "cpu", 0, np.float32, shape, at)
        buffer.bound = binding
        return binding

    def _check_open(self) -> None:
        if self._decoder is None:
            raise EngineError("the engine was closed: load the guard again")

    def close(self) -> None:
        """Drop buffers and sessions."""
        with self.lock:
            self._free.clear()
            self._vision = None
            self._decoder = None


class OnnxSequence(Closing):
    """See `EngineSequence`."""

    def __init__(self, engine: OnnxEngine, buffer: KVBuffer) -> None:
        self._engine, self.buffer = engine, buffer
        self.timings = Timings()
        self._length = self._position = 0
        self._closed = False

    @property
    def length(self) -> int:
        return self._length

    def begin(self, prefix: int) -> None:
        """Stand behind a prefix of text that the buffer already holds."""
        self._length = self._position = prefix

    def extend(
        self,
        ids: Ids,
        images: Sequence[Patches] = (),
        candidates: Ids | None = None,
        phase: str = "prefill",
    ) -> Logits:
        """See `EngineSequence.extend`."""
        with self._engine.lock:
            features = []
            if images:
                with self.timings.phase("vision"):
                    features = [self._engine.vision.features(image) for image in images]
            with self.timings.phase(phase):
                hidden = self.compute(ids, images, features)
                return self._engine.head.logits(hidden[-1], candidates)

    def compute(
        self,
        ids: Ids,
        images: Sequence[Patches] = (),
        features: Sequence[NDArray[np.float32]] = (),
    ) -> NDArray[np.float32]:
        """Append `ids`; hidden states float32 [1 or S, H], see `OnnxEngine.decode`."""
        engine = self._engine
        total = self._length + len(ids)
        if self._closed or not len(ids):
            raise EngineError("nothing to compute: no tokens, or a closed sequence")
        if total > engine.context:
            raise LimitError(f"{total} tokens, the model reads {engine.context} at most")
        if total > self.buffer.capacity:
            self.buffer.grow(engine.shape, _rounded(total), self._length)
        embeddings = engine.embeddings.rows(ids)
        grids = [image.grid for image in images]
        image_id = -1 if engine.image_token_id is None else engine.image_token_id
        positions, following = rope_positions(
            ids, image_id, grids, engine.merge_size, self._position
        )
        if features:
            embeddings[ids == image_id] = np.concatenate(features)
        hidden = engine.decode(self.buffer, self._length, embeddings, positions)
        self._length, self._position = total, following
        return hidden

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.give_back(self.buffer)


def _rounded(tokens: int) -> int:
    return -(-tokens // CAPACITY_STEP) * CAPACITY_STEP


def _providers() -> list[str]:
    return ["CPUExecutionProvider"]
