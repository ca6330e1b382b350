"""A stand-in for the library `tensorrt_llm`, which needs a GPU: its API over transformers.

It knows the arguments that the documentation names and refuses others. Like the real one it makes
tokens and patches of a prompt with pictures itself, and puts a number that is no token's where
pixels go.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


@dataclass(kw_only=True)
class SamplingParams:
    """Those that the engine uses, with the library's defaults."""

    max_tokens: int = 32
    top_k: int | None = None
    repetition_penalty: float | None = None
    return_generation_logits: bool = False
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True


class LLM:
    """One sequence at a time, greedily."""

    made: LLM | None = None

    def __init__(
        self,
        model: str | Path,
        kv_cache_config: dict[str, Any] | None = None,
        enable_chunked_prefill: bool = False,
    ) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import Qwen2_5_VLForConditionalGeneration

        found: Any = Qwen2_5_VLForConditionalGeneration
        self.model = found.from_pretrained(model, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
        self.settings = {"kv": kv_cache_config, "chunked": enable_chunked_prefill}
        self.salts: list[str | None] = []
        self.twist: Any = lambda result: result
        type(self).made = self

    def generate(
        self,
        inputs: dict[str, Any],
        sampling_params: SamplingParams | None = None,
        use_tqdm: bool = True,
        cache_salt: str | None = None,
    ) -> Any:
        import torch

        assert not use_tqdm
        assert sampling_params is not None
        self.salts.append(cache_salt)
        ids, feeds = self._read(inputs)
        with torch.inference_mode():
            out = self.model(input_ids=torch.tensor([ids]), **feeds, logits_to_keep=1)
        logits = out.logits[0]
        pad = self.model.config.image_token_id
        beyond = self.model.config.text_config.vocab_size + 1
        output = SimpleNamespace(
            token_ids=[int(logits.argmax())],
            generation_logits=logits if sampling_params.return_generation_logits else None,
        )
        read = [beyond if token == pad else token for token in ids]
        return self.twist(SimpleNamespace(prompt_token_ids=read, outputs=[output]))

    def _read(self, inputs: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        import torch
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        if set(inputs) == {"prompt_token_ids"}:
            return inputs["prompt_token_ids"], {}
        assert set(inputs) == {"prompt", "multi_modal_data"}
        pictures = inputs["multi_modal_data"]["image"]
        processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=224 * 224)
        made = processor(pictures, return_tensors="np")
        grids = np.asarray(made["image_grid_thw"])
        text = inputs["prompt"]
        for grid in grids:
            text = text.replace("<|image_pad|>", "<|held|>" * (int(grid.prod()) // 4), 1)
        text = text.replace("<|held|>", "<|image_pad|>")
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        pads = torch.tensor([ids]) == self.model.config.image_token_id
        feeds = {
            "pixel_values": torch.from_numpy(np.asarray(made["pixel_values"])),
            "image_grid_thw": torch.from_numpy(grids),
            "mm_token_type_ids": pads.int(),
        }
        return ids, feeds

    def shutdown(self) -> None:
        self.model = None


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put the stand-in where the library would be."""
    module = ModuleType("tensorrt_llm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
    return module
