"""The reference engine: the checkpoint in transformers, fp32 on the CPU or bf16 on a GPU (`hf`).

Quantized checkpoints keep the dtype that they name on a GPU. CUDA was never run: what a processor
can show of it is tested (where tensors go, bf16 against fp32, that every error has its line).
"""

from __future__ import annotations

import copy
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact
from proguard_edge.closing import Closing
from proguard_edge.engine.base import Ids, Logits, Timings, first_line
from proguard_edge.engine.positions import rope_positions
from proguard_edge.errors import EngineError, LimitError
from proguard_edge.image import Patches

MAX_PREFIXES = 8
FULL = "the GPU's memory is full: take a recipe of fewer bits (bnb-nf4, gptq-int4), or --device cpu"
NO_CUDA = "torch sees no CUDA device; `proguard-edge doctor` tells of GPUs, --device cpu needs none"
_BNB = "bitsandbytes.autograd._functions"


class TransformersEngine:
    """`Qwen2_5_VLForConditionalGeneration` from the artifact's `hf/` folder."""

    kind = "transformers"

    def __init__(
        self, artifact: Artifact, threads: int = 0, device: str = "auto", dtype: str | None = None
    ) -> None:
        """device: "cpu", "cuda", or "auto" for a GPU where torch sees one. dtype: of torch, by its
        name; None = what belongs to the device. Raises EngineError.
        """
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        try:
            import torch
            from transformers import Qwen2_5_VLForConditionalGeneration
        except ImportError as error:
            raise EngineError(
                f"the transformers engine needs {error.name}: pip install 'proguard-edge[hf]', or "
                "an environment with it: proguard-edge env create runtime --with hf"
            ) from None
        folder = artifact.folder / "hf"
        method = _quantization(folder / "config.json")
        _check_gptq(method)
        self.torch, self.device = torch, _device(torch, device)
        if threads:
            torch.set_num_threads(threads)
        logging.getLogger(_BNB).addFilter(_says_more_than_casts)
        self.model = self._load(
            Qwen2_5_VLForConditionalGeneration, folder, dtype or self._dtype(method), method
        )
        self.lock = threading.RLock()
        config = self.model.config
        self.context = int(config.text_config.max_position_embeddings)
        self.image_token_id: int | None = config.image_token_id
        self.merge_size = int(config.vision_config.spatial_merge_size)
        self._prefixes: OrderedDict[bytes, Any] = OrderedDict()

    def _dtype(self, method: str | None) -> str:
        """By its name in torch; "auto" is what the checkpoint names."""
        if self.device == "cpu":
            return "float32"
        return "bfloat16" if method is None else "auto"

    def _load(self, loader: Any, folder: Path, dtype: str, method: str | None) -> Any:
        """The model, whole and on the device."""
        options: dict[str, Any] = {"dtype": getattr(self.torch, dtype, dtype)}
        if method is not None and self.torch.cuda.is_available():
            # Left to themselves, readers of quantized weights take the GPU.
            options["device_map"] = {"": self.device}
        try:
            model, report = loader.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
            if method is None:
                model.to(self.device)
        except self.torch.OutOfMemoryError:
            raise EngineError(f"{folder}: cannot be loaded: {FULL}") from None
        except Exception as error:  # noqa: BLE001 - safetensors' errors have no base of their own
            raise EngineError(f"{folder}: cannot be loaded: {first_line(error)}") from None
        # transformers fills what a checkpoint lacks with random numbers.
        if lost := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
            named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
            raise EngineError(f"{folder}: the checkpoint lacks {named}")
        lie = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
        if lie != {self.device}:
            where = " and ".join(sorted(lie))
            raise EngineError(f"{folder}: weights lie on {where}, not on {self.device} alone")
        return model.eval()

    def start(self, prefix: Ids) -> TransformersSequence:
        """See `Engine.start`."""
        key = prefix.tobytes()
        sequence = TransformersSequence(self)
        with sequence.timings.phase("prefix"):
            if key not in self._prefixes:
                sequence.extend(prefix, phase="prefix_prefill")
                self._prefixes[key] = sequence.cache
                if len(self._prefixes) > MAX_PREFIXES:
                    self._prefixes.popitem(last=False)
            self._prefixes.move_to_end(key)
            with self.failing():
                state = copy.deepcopy(self._prefixes[key])
            sequence.begin(state, len(prefix))
        return sequence

    def run(self, cache: Any, **feeds: Any) -> tuple[Any, Logits]:
        """One forward pass behind `cache`; the state after it, and logits float32 [V].

        feeds: arrays that the model takes as tensors. Raises EngineError for whatever torch runs
        into; what a GPU ran into shows when its numbers are fetched.
        """
        if self.model is None:
            raise EngineError("the engine was closed: load the guard again")
        with self.failing(), self.torch.inference_mode():
            tensors = {k: self.torch.tensor(v).to(self.device) for k, v in feeds.items()}
            out = self.model(past_key_values=cache, use_cache=True, logits_to_keep=1, **tensors)
            logits: Logits = out.logits[0, -1].float().cpu().numpy()
        return out.past_key_values, logits

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Raises EngineError for whatever torch runs into in the block."""
        try:
            yield
        except self.torch.OutOfMemoryError:
            raise EngineError(f"the model failed: {FULL}") from None
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise EngineError(f"the model failed: {first_line(error)}") from None

    def close(self) -> None:
        """Drop the model."""
        self.model = None
        self._prefixes.clear()


class TransformersSequence(Closing):
    """See `EngineSequence`."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self.timings = Timings()
        self.cache: Any = None
        self._length = self._position = 0

    @property
    def length(self) -> int:
        return self._length

    def begin(self, cache: Any, prefix: int) -> None:
        """Continue after a prefix whose state `cache` holds."""
        self.cache = cache
        self._length = self._position = prefix

    def extend(
        self,
        ids: Ids,
        images: Sequence[Patches] = (),
        candidates: Ids | None = None,
        phase: str = "prefill",
    ) -> Logits:
        """See `EngineSequence.extend`."""
        engine = self._engine
        if self._length + len(ids) > engine.context:
            raise LimitError(f"{self._length + len(ids)} tokens, the model reads {engine.context}")
        grids = [image.grid for image in images]
        image_id = -1 if engine.image_token_id is None else engine.image_token_id
        positions, following = rope_positions(
            ids, image_id, grids, engine.merge_size, self._position
        )
        feeds: dict[str, Any] = {}
        if images:
            feeds["pixel_values"] = np.concatenate([image.pixels for image in images])
            feeds["image_grid_thw"] = np.array(grids)
        total = self._length + len(ids)
        with engine.lock, self.timings.phase(phase):
            cache, logits = engine.run(
                self.cache,
                input_ids=ids[None],
                position_ids=positions[:, None],
                attention_mask=np.ones((1, total), np.int64),
                **feeds,
            )
        self.cache, self._length, self._position = cache, total, following
        return logits if candidates is None else logits[candidates]

    def close(self) -> None:
        self.cache = None


def _device(torch: Any, wanted: str) -> str:
    """ "cpu" or "cuda". Raises EngineError for a GPU that torch does not see."""
    seen = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not seen:
        raise EngineError(NO_CUDA)
    return "cuda" if seen else "cpu"


def _quantization(config: Path) -> str | None:
    """How the checkpoint's weights are quantized; None where they are not."""
    try:
        settings = json.loads(config.read_bytes()).get("quantization_config") or {}
        method = settings.get("quant_method")
    except (OSError, ValueError, AttributeError):
        return None  # transformers says what is wrong with the file.
    return None if method is None else str(method)


def _check_gptq(method: str | None) -> None:
    """Raises EngineError for weights of GPTQ where what reads them is not installed."""
    missing = [name for name in ("optimum", "gptqmodel") if find_spec(name) is None]
    if method == "gptq" and missing:
        raise EngineError(
            f"weights of GPTQ need {' and '.join(missing)}, which `proguard-edge env create gptq` "
            "brings; an artifact for onnx with the same integers needs neither"
        )


def _says_more_than_casts(record: logging.LogRecord) -> bool:
    """bitsandbytes has a line for every matrix of every pass, that it casts to float16."""
    return "inputs will be cast" not in str(record.msg)
