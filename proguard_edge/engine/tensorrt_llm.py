"""TensorRT-LLM's Python API in this process, for artifacts whose weights lie under `trtllm/`.

Written against the documented API (`LLM`, `SamplingParams`); it was not run on a GPU. So it trusts
nothing: of every answer it checks which prompt was read, that one token was made, and that the
logits are those of this token.

TensorRT-LLM makes its own patches of a picture and its own tokens of a prompt with pictures. It is
given the very pixels that the artifact's processor chose, whose size and values its processor
leaves as they are, and its tokens must come out as ours did. KV blocks of requests with pictures
are kept apart by a digest of the pixels.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from tokenizers import Tokenizer

from proguard_edge.artifact import Artifact
from proguard_edge.engine.base import Ids, Logits, first_line
from proguard_edge.engine.stateless import StatelessSequence
from proguard_edge.errors import ArtifactError, EngineError
from proguard_edge.image import Patches

FOLDER = "trtllm"
SETTINGS = "serve.yaml"
# Of the logits that a float16 model computes, how far those of the token taken may be from the top.
TIE = 1e-3


class TensorRTLLMEngine:
    """An `LLM` of the artifact's `trtllm/` folder. Threads take turns."""

    kind = "tensorrt_llm"
    device = "cuda"

    def __init__(self, artifact: Artifact) -> None:
        model = artifact.model
        self.context, self._vocabulary = int(model["context"]), int(model["vocab"])
        self.image_token_id: int | None = model.get("image_token_id")
        self._tokenizer = Tokenizer.from_file(str(artifact.path("tokenizer.json")))
        settings = _settings(artifact)
        # What the user installed may look at the network unless it is told not to.
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        try:
            from tensorrt_llm import LLM, SamplingParams
        except Exception as error:  # noqa: BLE001 - without a GPU its import fails in many ways
            raise EngineError(
                "the tensorrt_llm engine needs a machine with an NVIDIA GPU and `pip install "
                f"tensorrt-llm` there: {first_line(error)}"
            ) from None
        try:
            self._llm = LLM(model=str(artifact.folder / FOLDER), **settings)
            self._sampling = SamplingParams(
                max_tokens=1,
                top_k=1,
                repetition_penalty=1.0,
                return_generation_logits=True,
                ignore_eos=True,
                detokenize=False,
                add_special_tokens=False,
            )
        except Exception as error:  # noqa: BLE001
            what = first_line(error)
            raise EngineError(f"{artifact.folder / FOLDER}: cannot be loaded: {what}") from None
        self._lock = threading.Lock()

    def start(self, prefix: Ids) -> StatelessSequence:
        """See `Engine.start`. TensorRT-LLM keeps the blocks of the prefix."""
        return StatelessSequence(self, prefix)

    def next_logits(self, ids: Ids, images: Sequence[Patches], candidates: Ids | None) -> Logits:
        """float32 [N], or [V] without candidates."""
        prompt: dict[str, Any] = {"prompt_token_ids": ids.tolist()}
        options: dict[str, Any] = {}
        if images:
            prompt = {
                "prompt": self._text(ids),
                "multi_modal_data": {"image": [image.picture() for image in images]},
            }
            options["cache_salt"] = _digest(images)
        with self._lock:
            if self._llm is None:
                raise EngineError("the engine was closed: load the guard again")
            try:
                result = self._llm.generate(prompt, self._sampling, use_tqdm=False, **options)
                logits = self._read(result, ids)
            except EngineError:
                raise
            except Exception as error:  # noqa: BLE001 - TensorRT-LLM has no common base class
                raise EngineError(f"TensorRT-LLM failed: {first_line(error)}") from None
        return logits if candidates is None else logits[candidates]

    def _text(self, ids: Ids) -> str:
        """The prompt as text, each image a single token: its processor puts in the others."""
        pad = -1 if self.image_token_id is None else self.image_token_id
        repeated = (ids[1:] == pad) & (ids[:-1] == pad)
        once = ids[np.concatenate([[True], ~repeated])]
        text: str = self._tokenizer.decode(once.tolist(), skip_special_tokens=False)
        return text

    def _read(self, result: Any, ids: Ids) -> Logits:
        """The logits of an answer that is the answer to `ids`. Raises EngineError."""
        read = np.array(result.prompt_token_ids, np.int64)
        image = ids == (-1 if self.image_token_id is None else self.image_token_id)
        # Places of pixels may hold a number that is no token's.
        if read.shape != ids.shape or not np.array_equal(read[~image], ids[~image]):
            raise EngineError("TensorRT-LLM read another prompt than it was given: no verdict")
        output = result.outputs[0]
        raw: NDArray[np.float32] = output.generation_logits.float().cpu().numpy()
        if raw.ndim != 2 or len(raw) != 1 or raw.shape[1] < self._vocabulary:
            raise EngineError(f"TensorRT-LLM gave logits of the shape {raw.shape}")
        token = int(output.token_ids[0])
        if len(output.token_ids) != 1 or not raw[0, token] >= raw[0].max() - TIE:
            raise EngineError("TensorRT-LLM gave logits that are not those of the token it made")
        return raw[0, : self._vocabulary]

    def close(self) -> None:
        """Shut the model down."""
        with self._lock:
            if self._llm is not None:
                self._llm.shutdown()
            self._llm = None


def _settings(artifact: Artifact) -> dict[str, Any]:
    """Arguments of `LLM` from `serve.yaml`, where `trtllm-serve` has them. Raises ArtifactError."""
    name = f"{FOLDER}/{SETTINGS}"
    if name not in artifact.files:
        return {}
    path: Path = artifact.path(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ArtifactError(f"{path}: cannot be read: {first_line(error)}") from None
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ArtifactError(f"{path}: not settings of TensorRT-LLM")
    if taken := {"model", "tokenizer", "trust_remote_code"} & set(settings):
        raise ArtifactError(f"{path}: may not set {', '.join(sorted(taken))}")
    return settings


def _digest(images: Sequence[Patches]) -> str:
    return hashlib.sha256("".join(image.digest() for image in images).encode()).hexdigest()
