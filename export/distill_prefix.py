"""Distillation of text rows under one policy, whose prefix all rows share: the fast way on a CPU.

Student and teacher each compute the prefix once and then only the rows' own tokens, by
`train.prefix_trainer`; the loss is that of `distill_loss`, with the label decisions' cross-entropy
between the two labels alone.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.export.distill import Teaching, same_run, teacher_for
from proguard_edge.export.distill_data import Counts, Lesson, read_whole
from proguard_edge.export.distill_loss import Figures, Mixture
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.template import Template
from proguard_edge.train.examples import IGNORE, Example, Prompting, batches, build_example
from proguard_edge.train.mixture import MAX_CONTENT, prompting_of
from proguard_edge.train.prefix_lm import PrefixKV, PrefixLM
from proguard_edge.train.prefix_trainer import (
    BATCH_TOKENS,
    PrefixTrainer,
    Schedule,
    marked,
    pad,
)
from proguard_edge.train.sft import rows_by_source, write_checkpoint

LOG_EVERY = 10
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Taught(Example):
    """An example with the teacher's difference at each of its decisions, NaN where unknown."""

    differences: list[float] = field(default_factory=list)

    @property
    def decided_at(self) -> list[int]:
        """Positions of the label decisions, the request's first."""
        return sorted([*self.label_at, *self.unlabelled_at])


def distil_shared(
    checkpoint: Path,
    lessons: Sequence[Lesson],
    counts: Counts,
    template: Template,
    policy: Policy,
    teaching: Teaching,
    schedule: Schedule,
    out: Path,
    report: Report = lambda _: None,
    *,
    seed: int = 0,
) -> Path:
    """`distill.distil` for text rows; the rows are repeated until the schedule's tokens are spent.

    Raises ArtifactError, InputError, TrainingError.
    """
    prompting, prefix = _prompting(checkpoint, template, policy)
    teacher = teacher_for(checkpoint, teaching.model) if teaching.model else None
    encoder = PromptEncoder(checkpoint / "tokenizer.json", template, policy)
    kept, examples = taught_examples(lessons, counts, prompting, encoder, seed)
    about = {
        **teaching.record(),
        "settings": {**asdict(schedule), "seed": seed, "shared_prefix": True},
        "policy": policy.digest(),
        "template": template.digest(),
        "counts": asdict(counts),
        "rows": rows_by_source(lesson.row for lesson in kept),
    }
    same_run(out, about, checkpoint, kept)
    trainer = Distiller(
        checkpoint, out / "state.pt", prompting, prefix, schedule, teaching.mixture, teacher
    )
    _train(trainer, examples, seed, out / "log.jsonl", report)
    seen = {"tokens": trainer.tokens, "steps": trainer.step}
    return write_checkpoint(trainer.model, checkpoint, out / "checkpoint", {**about, **seen})


def _prompting(checkpoint: Path, template: Template, policy: Policy) -> tuple[Prompting, list[int]]:
    if not (checkpoint / "tokenizer.json").is_file():
        raise ArtifactError(f"{checkpoint}: no tokenizer.json; give a checkpoint folder")
    encoder = PromptEncoder(checkpoint / "tokenizer.json", template, policy)
    one, other = (
        encoder.prefix("text", "verdict", answered).tolist() for answered in (False, True)
    )
    if one != other:
        raise ArtifactError("this template has no prefix that all rows share: no --shared-prefix")
    return prompting_of(checkpoint, template, policy)


def taught_examples(
    lessons: Sequence[Lesson],
    counts: Counts,
    prompting: Prompting,
    encoder: PromptEncoder,
    seed: int,
) -> tuple[list[Lesson], list[Taught]]:
    """Those lessons that can be taught, and their examples. The others are counted.

    Raises InputError for a row with a picture, and when nothing is left.
    """
    rng = random.Random(seed)
    kept: list[Lesson] = []
    examples: list[Taught] = []
    for lesson in lessons:
        row = lesson.row
        if row.image is not None:
            raise InputError(f"{row.id}: a row with a picture; leave --shared-prefix out")
        asked = MAX_CONTENT if row.response is None else MAX_CONTENT // 4
        if not read_whole(lesson, encoder, asked, MAX_CONTENT):
            counts.too_long += 1
            continue
        example = build_example(row, prompting, rng)
        if example is None:
            counts.unusable += 1
            continue
        decisions = len(example.label_at) + len(example.unlabelled_at)
        known = lesson.differences or (math.nan,) * decisions
        kept.append(lesson)
        examples.append(Taught(**vars(example), differences=list(known[:decisions])))
    counts.taught = len(kept)
    if not examples:
        raise InputError("no row has both something to read and a label to teach")
    return kept, examples


class Distiller(PrefixTrainer[Taught]):
    """A student's run; teacher: a model that reads the same ids, or None for verdicts alone."""

    def __init__(
        self,
        checkpoint: Path,
        state: Path,
        prompting: Prompting,
        prefix: Sequence[int],
        schedule: Schedule,
        mixture: Mixture,
        teacher: Any | None,
    ) -> None:
        super().__init__(checkpoint, state, prompting, prefix, schedule)
        self.mixture, self.figures = mixture, Figures()
        self._teacher: tuple[PrefixLM, PrefixKV, Tensor] | None = None
        if teacher is not None:
            lm = PrefixLM(teacher)
            self._teacher = lm, lm.prefix(self.prefix_ids), teacher.lm_head.weight

    def loss(self, batch: list[Taught], ids: Tensor, hidden: Tensor) -> Tensor:
        """`Mixture.total` over the batch's answer tokens and decisions."""
        hard = super().loss(batch, ids, hidden)
        # In the order of rows and then of positions, as a mask picks them.
        is_decided = marked(ids.shape, [e.decided_at for e in batch])
        said = torch.tensor([value for e in batch for value in e.differences])
        words = (pad([e.targets for e in batch], IGNORE) != IGNORE) & ~is_decided
        decided = self._difference(hidden[is_decided], self.head)
        expected = found = hidden.new_zeros(0, len(self.head))
        if self._teacher is not None:
            lm, prefix, head = self._teacher
            with torch.no_grad():
                other = lm.hidden(ids, prefix)
                difference = self._difference(other[is_decided], head)
                said = torch.where(said.isnan(), difference, said)
                width = min(len(head), len(self.head))
                expected = other[words] @ head[:width].T
            found = hidden[words] @ self.head[:width].T
        soft = self.mixture.soft(found, expected, decided, said)
        self.figures.add(hard, soft, decided, said)
        return self.mixture.total(hard, soft)

    def _difference(self, hidden: Tensor, head: Tensor) -> Tensor:
        return hidden @ (head[self.labels[1]] - head[self.labels[0]])


def _train(
    trainer: Distiller, examples: list[Taught], seed: int, log: Path, report: Report
) -> None:
    start, tokens, losses = time.time(), trainer.tokens, list[float]()
    for loss in trainer.run(_plan(examples, seed, trainer.step)):
        losses.append(loss)
        if trainer.step % LOG_EVERY and not trainer.finished:
            continue
        line = {
            "step": trainer.step,
            "tokens": trainer.tokens,
            "loss": round(sum(losses) / len(losses), 4),
            "rate": trainer.rate(),
            "tokens_per_second": round((trainer.tokens - tokens) / (time.time() - start), 1),
            **trainer.figures.take(),
        }
        losses.clear()
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        report(line)


def _plan(examples: list[Taught], seed: int, done: int) -> Iterator[list[Taught]]:
    """Batches without end, the first `done` left out: the same for the same seed, in every start.

    Every pass has an order of its own.
    """
    passes = 0
    while True:
        order = list(examples)
        random.Random(f"{seed}:{passes}").shuffle(order)
        plan = batches(order, BATCH_TOKENS, seed + passes)
        yield from plan[done:]
        done = max(0, done - len(plan))
        passes += 1
