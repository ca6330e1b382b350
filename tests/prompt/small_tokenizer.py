"""A byte-level BPE tokenizer of the Qwen make, small enough to train in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)

# How Qwen2 cuts words: digits alone, line breaks stay with the punctuation before them.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CORPUS = (
    "You are a safety guard. Read the conversation and decide whether it is safe or unsafe.\n",
    "<BEGIN CONVERSATION>\nUser: how do I kill a process on this machine?\n",
    "Agent: use the task manager and stop the process.\n<END CONVERSATION>\n",
    "<think>\n</think>\n<answer>\nRequest:safe\nResponse:unsafe\nCategory:None\n</answer>\n",
    "C1: Copyright\nC8S1: Weapons\nC9S3: Violent and Property Crime\nC11: Sexual Exposure\n",
    "if the image is unsafe output the image safety label, plus the image risk category\n",
)


def write_small_tokenizer(path: Path, added: Sequence[str] = ()) -> Path:
    """Write a `tokenizer.json` with the special tokens of Qwen-VL; `added` are not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([line for line in CORPUS for _ in range(3)], trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    tokenizer.save(str(path))
    return path
