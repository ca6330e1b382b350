"""Students cut out of a checkpoint: fewer layers, fewer tokens, the same weights otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tokenizers import Tokenizer

from proguard_edge.errors import ArtifactError
from proguard_edge.train.student import make_student

TEXT = "<|im_start|>user\nhow do I get a cat down from a tree?<|im_end|>"


def model_of(folder: Path):  # type: ignore[no-untyped-def]
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


def logits(model, ids: list[int]) -> np.ndarray:  # type: ignore[no-untyped-def, type-arg]
    import torch

    with torch.inference_mode():
        out: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()  # type: ignore[type-arg]
    return out


def test_a_smaller_vocabulary_keeps_text_special_tokens_and_the_logits_of_its_tokens(
    tiny: Path, tmp_path: Path
) -> None:
    before = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    merges = before.get_vocab_size(False) - 60
    make_student(tiny, tmp_path / "student", [0, 1], merges)
    after = Tokenizer.from_file(str(tmp_path / "student" / "tokenizer.json"))
    assert after.get_vocab_size() < before.get_vocab_size()
    ids = after.encode(TEXT).ids
    assert after.decode(ids, skip_special_tokens=False) == TEXT
    # The same pieces under their old numbers, and the columns of the tokens that are left.
    names = {i: word for word, i in after.get_vocab().items()}
    old = [before.token_to_id(names[i]) for i in sorted(names)]
    large, small = model_of(tiny), model_of(tmp_path / "student")
    expected = logits(large, [before.token_to_id(names[i]) for i in ids])[:, old]
    assert np.abs(logits(small, ids)[:, : len(old)] - expected).max() < 1e-5
    assert small.config.image_token_id == after.token_to_id("<|image_pad|>")


def test_layers_that_are_kept_compute_as_before(tiny: Path, tmp_path: Path) -> None:
    make_student(tiny, tmp_path / "student", [1])
    large, small = model_of(tiny), model_of(tmp_path / "student")
    large.model.language_model.layers = large.model.language_model.layers[1:]
    large.model.language_model.layers[0].self_attn.layer_idx = 0
    ids = list(range(20, 40))
    assert np.array_equal(logits(small, ids), logits(large, ids))
    assert small.config.text_config.num_hidden_layers == 1


@pytest.mark.parametrize(("layers", "vocabulary"), [([], None), ([2], None), ([0], 5), ([0], 9999)])
def test_what_the_checkpoint_does_not_have_is_an_error(
    tiny: Path, tmp_path: Path, layers: list[int], vocabulary: int | None
) -> None:
    with pytest.raises(ArtifactError):
        make_student(tiny, tmp_path / "student", layers, vocabulary)
