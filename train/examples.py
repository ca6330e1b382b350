"""Rows become token sequences with targets, under the prompt that the runtime will send."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from proguard_edge.answer import answer_text
from proguard_edge.errors import ArtifactError
from proguard_edge.train.rows import Row

IGNORE = -100
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Example:
    """Token ids of content and answer; for each, the target of the next token or `IGNORE`.

    `label_at` are the positions whose target is a safe/unsafe decision; `unlabelled_at` those where
    one is made that nobody labelled.
    """

    id: str
    ids: list[int]
    targets: list[int]
    label_at: list[int]
    unlabelled_at: list[int] = field(default_factory=list)


E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class Fork:
    """Where answers part that differ in one label: the first token to differ, and which it is."""

    at: int
    safe: int
    unsafe: int


@dataclass(frozen=True)
class Prompting:
    """How a row is turned into content tokens; supplied by the runtime's own encoder."""

    content: Callable[[str, str | None], list[int]]
    encode: Encode
    end_id: int


def build_example(row: Row, prompting: Prompting, rng: random.Random) -> Example | None:
    """None when the row carries no label that can be trained, or its text is empty.

    An unlabelled request beside a labelled response gets a random label in the answer, without
    a target: so the response's label is learnt independently of what stands before it.
    """
    if row.user is None or not row.user.strip():
        return None
    with_response = row.response is not None and row.response_label is not None
    if row.request_label is None and not with_response:
        return None
    request = row.request_label or rng.choice(("safe", "unsafe"))
    response = row.response_label if with_response else None
    unsafe = "unsafe" in (request, response)
    complete = _is_complete(row, unsafe, with_response, rng)
    answer = answer_text(request, response, row.category if unsafe else None)
    forks = label_forks(prompting.encode, request, with_response)
    return _assemble(row, prompting, answer, forks, complete)


def label_forks(encode: Encode, request: str, with_response: bool) -> list[Fork]:
    """The label decisions in the token ids of an answer, in order: request, then response.

    Found by comparing: a tokenizer may join the colon to the label. Raises ArtifactError when it
    writes two labels alike.
    """
    response = "safe" if with_response else None
    forks = [_fork(encode, [answer_text(label, response, None) for label in ("safe", "unsafe")])]
    if with_response:
        answers = [answer_text(request, label, None) for label in ("safe", "unsafe")]
        forks.append(_fork(encode, answers))
    return forks


def _fork(encode: Encode, answers: list[str]) -> Fork:
    safe, unsafe = map(encode, answers)
    for at, (one, other) in enumerate(zip(safe, unsafe, strict=False)):
        if one != other:
            return Fork(at, one, other)
    raise ArtifactError("the tokenizer encodes two different answers alike")


def _is_complete(row: Row, unsafe: bool, with_response: bool, rng: random.Random) -> bool:
    """Whether the answer is trained to its end: where the category is known, and a few safe ones.

    Every further answer token costs a whole position, so most rows stop at their label.
    """
    if with_response and row.request_label is None:
        return False
    if not unsafe:
        return rng.random() < 0.06
    share = 0.35 if row.source == "davidson" else 1.0
    return row.category is not None and rng.random() < share


def _assemble(
    row: Row, prompting: Prompting, answer: str, forks: list[Fork], complete: bool
) -> Example:
    with_response = len(forks) == 2
    content = prompting.content(row.user or "", row.response if with_response else None)
    tokens = [*prompting.encode(answer), prompting.end_id]
    last = len(tokens) if complete else forks[-1].at + 1
    ids = [*content, *tokens[: last - 1]]
    targets = [IGNORE] * len(ids)
    base = len(content) - 1
    if complete:
        for i in range(forks[0].at, last):
            targets[base + i] = tokens[i]
    label_at: list[int] = []
    unlabelled_at: list[int] = []
    labelled = [row.request_label is not None, *([True] if with_response else [])]
    for fork, known in zip(forks, labelled, strict=True):
        targets[base + fork.at] = tokens[fork.at] if known else IGNORE
        (label_at if known else unlabelled_at).append(base + fork.at)
    return Example(row.id, ids, targets, label_at, unlabelled_at)


def select_rows(rows: Iterable[Row], caps: dict[str, int], seed: int) -> list[Row]:
    """At most `caps[source]` rows of a source, drawn by `seed`; without a cap all of them."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    chosen: list[Row] = []
    for source, members in sorted(by_source.items()):
        random.Random(f"{seed}:{source}").shuffle(members)
        chosen += members[: caps.get(source, len(members))]
    random.Random(seed).shuffle(chosen)
    return chosen


def batches(examples: Sequence[E], budget: int, seed: int) -> list[list[E]]:
    """Batches of at most `budget` padded tokens, rows of like length together, shuffled."""
    rng = random.Random(seed)
    out: list[list[E]] = []
    for start in range(0, len(examples), 1024):
        group = sorted(examples[start : start + 1024], key=lambda e: len(e.ids))
        ready: list[list[E]] = []
        batch: list[E] = []
        for example in group:
            if batch and len(example.ids) * (len(batch) + 1) > budget:
                ready.append(batch)
                batch = []
            batch.append(example)
        ready.append(batch)
        rng.shuffle(ready)
        out += ready
    return out
