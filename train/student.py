"""A smaller checkpoint out of a larger one: some of its layers, and the common part of its words.

    python -m proguard_edge.train.student CHECKPOINT OUT --layers 0,1,2,29 [--vocabulary 8192]

A byte-level BPE tokenizer lists its merges by frequency, so its first N tokens are a tokenizer of
their own; the same text only takes more tokens. A pruned student is of use after training only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint, copy_companions, read_json

ALIGN = 64


def make_student(
    checkpoint: Path, out: Path, layers: Sequence[int], vocabulary: int | None = None
) -> int:
    """Write the student's checkpoint folder; returns its number of parameters.

    layers: indices into the decoder's layers, kept in this order. vocabulary: of the tokens that
    are merges or bytes, keep the first so many; special tokens always stay.
    Raises ArtifactError when the checkpoint has no such layers or its tokenizer no such order.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    source = Checkpoint(checkpoint)
    loader: Any = Qwen2_5_VLForConditionalGeneration
    model = loader.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    decoder = model.model.language_model
    if not layers or not all(0 <= i < len(decoder.layers) for i in layers):
        raise ArtifactError(f"{checkpoint}: has layers 0 to {len(decoder.layers) - 1}")
    kept = [decoder.layers[i] for i in layers]
    for index, layer in enumerate(kept):
        layer.self_attn.layer_idx = index
    decoder.layers = torch.nn.ModuleList(kept)
    text = model.config.text_config
    text.num_hidden_layers = len(kept)
    text.layer_types = text.layer_types[: len(kept)]
    out.mkdir(parents=True, exist_ok=True)
    copy_companions(source.folder, out)
    if vocabulary is not None:
        _keep_tokens(model, source.folder / "tokenizer.json", out, vocabulary)
    model.save_pretrained(out)
    return int(model.num_parameters())


def _keep_tokens(model: Any, tokenizer_json: Path, out: Path, size: int) -> None:
    import torch

    tokenizer = read_json(tokenizer_json)
    ids = _renumber(tokenizer, size)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    rows = torch.tensor(sorted(ids, key=ids.__getitem__))
    width = -(-len(ids) // ALIGN) * ALIGN
    text = model.config.text_config
    for owner, name in ((model.model.language_model, "embed_tokens"), (model, "lm_head")):
        table = getattr(owner, name).weight
        smaller = table.mean(0, keepdim=True).repeat(width, 1)
        smaller[: len(rows)] = table[rows]
        getattr(owner, name).weight = torch.nn.Parameter(smaller.detach().clone())
    text.vocab_size = width
    for config in (model.config, text, model.generation_config):
        for name, value in list(config.to_dict().items()):
            if name.endswith("_token_id") and isinstance(value, int):
                setattr(config, name, ids.get(value))
    model.tie_weights()


def _renumber(tokenizer: dict[str, Any], size: int) -> dict[int, int]:
    """Cut `tokenizer` (tokenizer.json's content) in place; old id → new id of what is left."""
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    merges = model["merges"]
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]
    first = model["vocab"]["".join(pairs[0])] if pairs else 0
    if any(model["vocab"].get("".join(pair)) != first + i for i, pair in enumerate(pairs)):
        raise ArtifactError("the tokenizer does not number its tokens in the order of its merges")
    if not first < size <= first + len(pairs):
        raise ArtifactError(f"the vocabulary must be above {first}, at most {first + len(pairs)}")
    special = {token["id"] for token in added}
    kept = sorted({i for i in model["vocab"].values() if i < size} | special)
    ids = {old: new for new, old in enumerate(kept)}
    model["merges"] = merges[: size - first]
    model["vocab"] = {word: ids[i] for word, i in model["vocab"].items() if i in ids}
    for token in added:
        token["id"] = ids[token["id"]]
    return ids


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", required=True, help="comma-separated indices")
    parser.add_argument("--vocabulary", type=int)
    args = parser.parse_args()
    layers = [int(i) for i in args.layers.split(",")]
    print(f"{make_student(args.checkpoint, args.out, layers, args.vocabulary):,} parameters")


if __name__ == "__main__":
    main()
