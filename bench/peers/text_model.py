"""The language model of a Qwen2.5-VL checkpoint as a Qwen2 one: the same sums for texts.

Most programs know Qwen2 and not its vision-language form. On texts the three position axes of
Qwen2.5-VL are equal, so rotary embeddings are the ordinary ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proguard_edge.export.checkpoint import copy_companions


def write_text_model(checkpoint: Path, out: Path) -> None:
    """Write a Qwen2ForCausalLM folder with weights, configuration and tokenizer."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

    loader: Any = Qwen2_5_VLForConditionalGeneration
    source = loader.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    text = source.config.text_config
    other = ("rope_parameters", "model_type", "architectures")
    settings = {key: value for key, value in text.to_dict().items() if key not in other}
    rope = {"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]}
    config: Any = Qwen2Config(**settings, rope_parameters=rope)
    model = Qwen2ForCausalLM(config)
    model.model.load_state_dict(source.model.language_model.state_dict())
    model.lm_head.load_state_dict(source.lm_head.state_dict())
    model.tie_weights()
    out.mkdir(parents=True, exist_ok=True)
    copy_companions(checkpoint, out)
    model.save_pretrained(out)
