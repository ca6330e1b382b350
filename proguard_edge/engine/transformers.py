"""The reference engine: the checkpoint in transformers, in fp32 on the CPU (extra `hf`)."""

from __future__ import annotations

import copy
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
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
_BNB = "bitsandbytes.autograd._functions"


class TransformersEngine:
    """`Qwen2_5_VLForConditionalGeneration` from the artifact's `hf/` folder."""

    kind = "transformers"

    def __init__(self, artifact: Artifact, threads: int = 0) -> None:
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
        try:
            import torch
            from transformers import Qwen2_5_VLForConditionalGeneration
        except ImportError as error:
            raise EngineError(
                f"the transformers engine needs {error.name}: pip install 'proguard-edge[hf]'"
            ) from None
        _check_gptq(artifact.folder / "hf" / "config.json")
        if threads:
            torch.set_num_threads(threads)
        logging.getLogger(_BNB).addFilter(_says_more_than_casts)
        try:
            model: Any = Qwen2_5_VLForConditionalGeneration
            self.model, report = model.from_pretrained(
                artifact.folder / "hf",
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # noqa: BLE001 - safetensors' errors have no base of their own
            what = first_line(error)
            raise EngineError(f"{artifact.folder / 'hf'}: cannot be loaded: {what}") from None
        # transformers fills what a checkpoint lacks with random numbers.
        if lost := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
            named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
            raise EngineError(f"{artifact.folder / 'hf'}: the checkpoint lacks {named}")
        self.model.eval()
        self.torch = torch
        self.lock = threading.RLock()
        config = self.model.config
        self.context = int(config.text_config.max_position_embeddings)
        self.image_token_id: int | None = config.image_token_id
        self.merge_size = int(config.vision_config.spatial_merge_size)
        self._prefixes: OrderedDict[bytes, Any] = OrderedDict()

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
            sequence.begin(copy.deepcopy(self._prefixes[key]), len(prefix))
        return sequence

    def run(self, **feeds: Any) -> Any:
        """One forward pass. Raises EngineError for whatever torch runs into."""
        if self.model is None:
            raise EngineError("the engine was closed: load the guard again")
        try:
            return self.model(**feeds)
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
        engine, torch = self._engine, self._engine.torch
        if self._length + len(ids) > engine.context:
            raise LimitError(f"{self._length + len(ids)} tokens, the model reads {engine.context}")
        grids = [image.grid for image in images]
        image_id = -1 if engine.image_token_id is None else engine.image_token_id
        positions, following = rope_positions(
            ids, image_id, grids, engine.merge_size, self._position
        )
        feeds: dict[str, Any] = {}
        if images:
            feeds["pixel_values"] = torch.from_numpy(np.concatenate([i.pixels for i in images]))
            feeds["image_grid_thw"] = torch.tensor(grids)
        total = self._length + len(ids)
        with engine.lock, self.timings.phase(phase), torch.inference_mode():
            out = engine.run(
                input_ids=torch.tensor(ids)[None],
                position_ids=torch.from_numpy(positions)[:, None],
                attention_mask=torch.ones((1, total), dtype=torch.long),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **feeds,
            )
        self.cache, self._length, self._position = out.past_key_values, total, following
        logits: Logits = out.logits[0, -1].float().numpy()
        return logits if candidates is None else logits[candidates]

    def close(self) -> None:
        self.cache = None


def _check_gptq(config: Path) -> None:
    """Raises EngineError for weights of GPTQ where what reads them is not installed."""
    try:
        settings = json.loads(config.read_bytes()).get("quantization_config") or {}
    except (OSError, ValueError, AttributeError):
        return  # transformers says what is wrong with the file.
    missing = [name for name in ("optimum", "gptqmodel") if find_spec(name) is None]
    if settings.get("quant_method") == "gptq" and missing:
        raise EngineError(
            f"weights of GPTQ need {' and '.join(missing)}, which `proguard-edge env create gptq` "
            "brings; an artifact for onnx with the same integers needs neither"
        )


def _says_more_than_casts(record: logging.LogRecord) -> bool:
    """bitsandbytes has a line for every matrix of every pass, that it casts to float16."""
    return "inputs will be cast" not in str(record.msg)
