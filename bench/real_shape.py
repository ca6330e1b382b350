"""A random checkpoint of the released models' shape, to prove that an export fits a machine.

    python -m proguard_edge.bench.real_shape TOKENIZER_FOLDER OUT [--size 3B]

Tensors are drawn one by one in bfloat16, so memory stays small. TOKENIZER_FOLDER is any checkpoint
with a tokenizer of fewer words; the rest of the vocabulary is never used. It knows nothing, and its
verdicts mean nothing: times, sizes and memory are those of the real model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proguard_edge.export.checkpoint import copy_companions, read_json
from proguard_edge.export.sizes import SHAPES, TOWER

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
PLACES = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
SHARD_BYTES = 2 << 30


def write_checkpoint(tokenizer: Path, out: Path, size: str, seed: int = 0) -> int:
    """Write the folder `out`; the number of weights. Raises ArtifactError, see `read_json`."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    copy_companions(tokenizer, out)
    own = read_json(tokenizer / "config.json")
    config = _config(size, own)
    generator = torch.Generator().manual_seed(seed)
    count, number, shard, held = 0, 0, {}, 0
    places: dict[str, str] = {}
    for name, shape in _shapes(config):
        tensor = torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) > 1:
            tensor = torch.empty(shape).normal_(0, 0.02, generator=generator).bfloat16()
        elif name.endswith("bias"):
            tensor = torch.zeros(shape, dtype=torch.bfloat16)
        shard[name], count, held = tensor, count + tensor.numel(), held + 2 * tensor.numel()
        if held >= SHARD_BYTES:
            number, shard, held = _save(shard, out, number, places), {}, 0
    _save(shard, out, number, places)
    index = {"metadata": {"total_size": 2 * count}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(out)
    return count


def _config(size: str, own: dict[str, Any]) -> Any:
    from transformers import Qwen2_5_VLConfig

    text = own.get("text_config", own)
    shape = SHAPES[size]
    return Qwen2_5_VLConfig(
        text_config={
            **shape,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_theta": 1e6,
                "rope_type": "default",
                "mrope_section": [16, 24, 24],
            },
            **{name: text.get(name) for name in TOKENS},
        },
        vision_config={**TOWER, "out_hidden_size": shape["hidden_size"]},
        tie_word_embeddings=shape["tie_word_embeddings"],
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype="bfloat16",
        **{name: own[name] for name in PLACES},
    )


def _shapes(config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names as checkpoints hold them, and shapes, of every tensor."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        saved = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        yield saved, tuple(parameter.shape)


def _save(shard: dict[str, Any], out: Path, number: int, places: dict[str, str]) -> int:
    from safetensors.torch import save_file

    name = f"model-{number:05d}.safetensors"
    save_file(shard, out / name, metadata={"format": "pt"})
    places.update(dict.fromkeys(shard, name))
    return number + 1


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(SHAPES), default="3B")
    args = parser.parse_args()
    begin = time.monotonic()
    count = write_checkpoint(args.tokenizer, args.out, args.size)
    print(f"{args.out}: {count / 1e9:.3f} billion weights, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
