"""Rows become token sequences with targets, under the prompt that the runtime will send."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proguard_edge.answer import answer_text
from proguard_edge.train.rows import Row

IGNORE = -100
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Example:
    """Token ids of content and answer; for each, the target of the next token or `IGNORE`.

    `label_at` are the positions whose target is a safe/unsafe decision.
    """

    id: str
    ids: list[int]
    targets: list[int]
    label_at: list[int]


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
    return _assemble(row, prompting, answer, with_response, complete)


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
    row: Row, prompting: Prompting, answer: str, with_response: bool, complete: bool
) -> Example:
    content = prompting.content(row.user or "", row.response if with_response else None)
    tokens = [*prompting.encode(answer), prompting.end_id]
    marks = [answer.index("Request:") + len("Request:")]
    if with_response:
        marks.append(answer.index("Response:") + len("Response:"))
    decisions = [len(prompting.encode(answer[:mark])) for mark in marks]
    last = len(tokens) if complete else decisions[-1] + 1
    ids = [*content, *tokens[: last - 1]]
    targets = [IGNORE] * len(ids)
    base = len(content) - 1
    if complete:
        for i in range(decisions[0], last):
            targets[base + i] = tokens[i]
    label_at = []
    labelled = [row.request_label is not None, *([True] if with_response else [])]
    for index, known in zip(decisions, labelled, strict=True):
        targets[base + index] = tokens[index] if known else IGNORE
        if known:
            label_at.append(base + index)
    return Example(row.id, ids, targets, label_at)


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


def batches(examples: list[Example], budget: int, seed: int) -> list[list[Example]]:
    """Batches of at most `budget` padded tokens, rows of like length together, shuffled."""
    rng = random.Random(seed)
    out: list[list[Example]] = []
    for start in range(0, len(examples), 1024):
        group = sorted(examples[start : start + 1024], key=lambda e: len(e.ids))
        ready: list[list[Example]] = []
        batch: list[Example] = []
        for example in group:
            if batch and len(example.ids) * (len(batch) + 1) > budget:
                ready.append(batch)
                batch = []
            batch.append(example)
        ready.append(batch)
        rng.shuffle(ready)
        out += ready
    return out
