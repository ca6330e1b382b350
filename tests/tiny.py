"""A tiny Qwen2.5-VL checkpoint with everything a real one has, for tests that run whole models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "prompt"))

from small_tokenizer import write_small_tokenizer

SPECIAL = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
IMAGE_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "min_pixels": 56 * 56,
    "max_pixels": 224 * 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def tiny_checkpoint(
    folder: Path, seed: int = 0, tied: bool = True, hidden: int = 64, layers: int = 2
) -> Path:
    """Write a random checkpoint (about 0.3 million weights) into `folder`, which it returns.

    hidden: a multiple of 64; heads have 16 dimensions, two query heads share one of keys and
    values. The vision tower has window layers (0, 2) and layers of full attention (1, 3). The
    same arguments give the same weights.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    ids, vocab = _write_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=1))
    heads = hidden // 16
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "tie_word_embeddings": tied,
            "rope_parameters": {
                "rope_theta": 10000.0,
                "rope_type": "default",
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "out_hidden_size": hidden,
            "in_channels": 3,
        },
        tie_word_embeddings=tied,
        **{name: ids[token] for name, token in SPECIAL.items()},
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
    _make_peaky(model)
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


def _make_peaky(model: Any) -> None:
    """Weights large enough that every layer matters and the best token stands out."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name:
                weight.normal_(0, 0.5)
            elif name.endswith("bias"):
                weight.normal_(0, 0.05)
            elif weight.dim() >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.normal_(1, 0.1)


def _write_tokenizer(folder: Path) -> tuple[dict[str, int], int]:
    """Write the tokenizer's files; ids of its special tokens, and a vocabulary size that fits."""
    from tokenizers import Tokenizer

    path = write_small_tokenizer(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<|video_pad|>"])
    tokenizer.save(str(path))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    ids = {token: index for token, index in tokenizer.get_vocab().items() if token[:2] == "<|"}
    return ids, -(-tokenizer.get_vocab_size() // 64) * 64
