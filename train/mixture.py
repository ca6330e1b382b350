"""What the starter is trained on: which rows, how many of a source, under which prompt."""

from __future__ import annotations

import random
from pathlib import Path

from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder, Template
from proguard_edge.train.contrast import contrast_rows
from proguard_edge.train.examples import Example, Prompting, build_example, select_rows
from proguard_edge.train.rows import Row, read_folder, read_jsonl

# Rows at most of a source; sources that are easy by now give little for what they cost.
CAPS = {
    "advbench": 250,
    "alpaca": 800,
    "beavertails": 700,
    "catqa": 250,
    "cyberseceval_frr": 80,
    "cyberseceval_interpreter": 40,
    "davidson": 300,
    "gpteacher_roleplay": 60,
    "gsm8k": 30,
    "harmfulqa": 300,
    "imagenet_sample": 0,
    "med_safety": 80,
    "safe_rlhf": 300,
    "safety_tuned_llamas": 250,
    "self_instruct_seed": 50,
    "toxigen": 250,
}
MAX_CONTENT = 256
WATCHED = ("xstest", "harmbench_prompt")


def all_rows(data: Path, seed: int) -> list[Row]:
    """Every training row: the data folder's and our own contrast rows."""
    return read_folder(data / "train") + [Row.from_dict(r) for r in contrast_rows(seed)]


def training_examples(rows: list[Row], prompting: Prompting, seed: int) -> list[Example]:
    """The mixture as token sequences, in the order of training."""
    rng = random.Random(seed)
    train = select_rows((r for r in rows if not r.in_held_out()), CAPS, seed)
    built = [build_example(row, prompting, rng) for row in train]
    return [e for e in built if e is not None]


def held_out_rows(rows: list[Row], seed: int, limit: int = 160) -> list[Row]:
    """Labelled rows that are never trained on, to watch a run by."""
    held_out = [r for r in rows if r.in_held_out() and r.source != "alpaca" and r.user]
    return select_rows((r for r in held_out if r.request_label or r.response_label), {}, seed)[
        :limit
    ]


def watched_rows(data: Path) -> list[Row]:
    """Rows of the evaluation files that a run prints figures on."""
    return [r for name in WATCHED for r in read_jsonl(data / f"eval/{name}.jsonl.gz")]


def prompting_of(
    base: Path,
    template: Template | None = None,
    policy: Policy | None = None,
    most: int = MAX_CONTENT,
) -> tuple[Prompting, list[int]]:
    """The runtime's encoder over the base checkpoint's tokenizer, and the policy prefix.

    Without template and policy those of the starter. most: tokens of a request or a response; a
    request beside a response gets a quarter. Raises ArtifactError, PolicyError.
    """
    template = template or Template.named("compact")
    encoder = PromptEncoder(base / "tokenizer.json", template, policy or Policy.default())

    def content(user: str, response: str | None) -> list[int]:
        share = most if response is None else most // 4
        user = encoder.windows(user, share, 0)[0]
        if response is not None:
            response = encoder.windows(response, most, 0)[0]
        return encoder.content(user, response, (), "verdict").content_ids.tolist()

    (end,) = encoder.encode_static("<|im_end|>")
    prefix = encoder.prefix("text", "verdict", False).tolist()
    return Prompting(content, encoder.encode_static, end), prefix
