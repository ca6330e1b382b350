"""Lessons as batches for `train.sft`'s trainer, and their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proguard_edge.errors import InputError
from proguard_edge.export.distill_data import Counts, Lesson, read_whole
from proguard_edge.export.distill_loss import Figures, Mixture
from proguard_edge.train.examples import IGNORE, Fork, label_forks
from proguard_edge.train.sft_data import Sample, SampleBuilder, collate


@dataclass(frozen=True)
class Taught:
    """A sample with its label decisions, and the teacher's difference at each, NaN if unknown."""

    sample: Sample
    forks: tuple[Fork, ...]
    differences: tuple[float, ...]


class LessonSet:
    """Lessons as a map-style dataset; a sample is made when it is asked for.

    Leaves out, and counts, those of which the student would read a part only. Raises InputError
    when none is left.
    """

    def __init__(self, lessons: Sequence[Lesson], builder: SampleBuilder, counts: Counts) -> None:
        most = builder.max_tokens
        usable = [lesson for lesson in lessons if builder.usable(lesson.row)]
        self.lessons = [x for x in usable if read_whole(x, builder.encoder, most, most)]
        self._builder = builder
        self._forks = _forks_by_request(builder)
        counts.unusable += len(lessons) - len(usable)
        counts.too_long += len(usable) - len(self.lessons)
        counts.taught = len(self.lessons)
        if not self.lessons:
            raise InputError("no row has both something to read and a label to teach")

    def __len__(self) -> int:
        return len(self.lessons)

    def __getitem__(self, index: int) -> Taught:
        lesson = self.lessons[index]
        sample = self._builder(lesson.row)
        judged = lesson.row.response is not None and lesson.row.response_label is not None
        parts = 2 if judged else 1
        answer = sample.ids[sample.answer_at :]
        forks = next(
            forks[:parts]
            for word, forks in self._forks.items()
            if answer[forks[0].at] == getattr(forks[0], word)
        )
        placed = tuple(Fork(sample.answer_at + f.at, f.safe, f.unsafe) for f in forks[:parts])
        known = lesson.differences or (math.nan,) * len(placed)
        return Taught(sample, placed, known[:parts])


def _forks_by_request(builder: SampleBuilder) -> dict[str, list[Fork]]:
    """The decisions of both labels, by the request's label, which moves the response's place."""
    encode = builder.encoder.encode_static
    return {word: label_forks(encode, word, True) for word in ("safe", "unsafe")}


def collate_lessons(lessons: Sequence[Taught], **places: int) -> dict[str, Any]:
    """`sft_data.collate`'s batch with `decisions` int64 [D, 4], each the row, the position whose
    logits decide, and the two tokens safe and unsafe; and `said` float32 [D], differences or NaN.
    """
    batch = collate([lesson.sample for lesson in lessons], **places)
    decisions = [
        (row, fork.at - 1, fork.safe, fork.unsafe)
        for row, lesson in enumerate(lessons)
        for fork in lesson.forks
    ]
    said = [difference for lesson in lessons for difference in lesson.differences]
    return {**batch, "decisions": torch.tensor(decisions), "said": torch.tensor(said)}


class Distillation:
    """The loss of a batch of `collate_lessons`, for `train.sft.optimise`."""

    def __init__(self, mixture: Mixture, teacher: Any | None) -> None:
        self.mixture, self._teacher = mixture, teacher
        self._figures = Figures()

    def __call__(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """A scalar: `Mixture.total` over the batch's answer tokens and decisions."""
        decisions, said = batch.pop("decisions"), batch.pop("said")
        targets = batch.pop("labels")[:, 1:]
        taught = targets != IGNORE
        row, position, safe, unsafe = decisions.unbind(1)
        wanted = taught.any(0)
        wanted[position] = True
        # The head costs more than the layers where the vocabulary is large: these columns only.
        columns = wanted.nonzero()[:, 0]
        at = wanted.cumsum(0)[position] - 1
        targets, taught = targets[:, columns], taught[:, columns]
        logits = model(**batch, logits_to_keep=columns, use_cache=False).logits
        decided = logits[row, at, unsafe].float() - logits[row, at, safe].float()
        hard = F.cross_entropy(logits[taught].float(), targets[taught])
        words = taught.clone()
        # Where a label is decided the two labels alone are compared.
        words[row, at] = False
        expected = logits[words][:0]
        if self._teacher is not None:
            other = self._teach(batch, columns, logits.device)
            width = min(other.shape[-1], logits.shape[-1])
            difference = other[row, at, unsafe].float() - other[row, at, safe].float()
            said = torch.where(said.isnan(), difference, said)
            expected, found = other[words][:, :width], logits[words][:, :width]
        else:
            found = expected
        soft = self.mixture.soft(found, expected, decided, said)
        self._figures.add(hard, soft, decided, said)
        return self.mixture.total(hard, soft)

    @torch.no_grad()
    def _teach(self, batch: dict[str, Any], columns: Tensor, device: torch.device) -> Tensor:
        teacher: Any = self._teacher
        if teacher.device != device:
            teacher.to(device)
        logits: Tensor = teacher(**batch, logits_to_keep=columns, use_cache=False).logits
        return logits

    def figures(self) -> dict[str, float]:
        """hard, soft and agreement: means since the last call."""
        return self._figures.take()
