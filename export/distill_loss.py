"""The loss of distillation: the answer's cross-entropy, and the distance to the teacher.

    (1 − w) · CE(answer) + w · T² · [ KL over the vocabulary + KL over safe and unsafe ]

KL is that of the teacher's distribution from the student's, both softened by the temperature T;
T² keeps the gradient's size where T grows (Hinton, Vinyals and Dean, arXiv 1503.02531). The first
KL is the mean over the answer tokens of a teacher in process; the second the mean over the label
decisions, where the two labels alone compete, as they do at run time: of a teacher whose verdicts
are all that is known, it is the only one. What is in neither list of positions counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """temperature: above 0. weight: of the teacher's part, 0 to 1; the answer has the rest."""

    temperature: float = 2.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise ValueError(f"temperature {self.temperature}, weight {self.weight}")

    def soft(self, student: Tensor, teacher: Tensor, decided: Tensor, said: Tensor) -> Tensor:
        """The teacher's part, T² included; a scalar, 0 where there is nothing to compare.

        student, teacher: logits [N, V] at answer tokens, N may be 0. decided, said: the student's
        and the teacher's logit difference unsafe − safe [D]; where `said` is NaN nothing is known.
        """
        known = ~said.isnan()
        labels = divergence(two_way(said[known]), two_way(decided[known]), self.temperature)
        words = divergence(teacher, student, self.temperature)
        return self.temperature**2 * (_mean(words) + _mean(labels))

    def total(self, hard: Tensor, soft: Tensor) -> Tensor:
        """The loss, a scalar; hard: the answer's cross-entropy."""
        return (1 - self.weight) * hard + self.weight * soft


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) in nats, [N], of logits [N, V] divided by the temperature.

    The teacher gets no gradient.
    """
    expected = (teacher.detach().float() / temperature).log_softmax(-1)
    found = (student.float() / temperature).log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1)


def two_way(difference: Tensor) -> Tensor:
    """Logits [D, 2] of (safe, unsafe), renormalised to these two, for differences [D]."""
    return torch.stack((torch.zeros_like(difference), difference), -1)


class Figures:
    """Means of what a run logs beside its loss, over the batches since they were last taken."""

    def __init__(self) -> None:
        self._hard, self._soft = list[float](), list[float]()
        self._agreed = self._decisions = 0

    def add(self, hard: Tensor, soft: Tensor, decided: Tensor, said: Tensor) -> None:
        """Count one batch; `decided` and `said` [D] as in `Mixture.soft`."""
        known = ~said.isnan()
        self._hard.append(float(hard.detach()))
        self._soft.append(float(soft.detach()))
        self._agreed += int(((decided > 0) == (said > 0))[known].sum())
        self._decisions += int(known.sum())

    def take(self) -> dict[str, float]:
        """hard, soft, and agreement where the teacher decided anything; begins anew."""
        found = {}
        for name, values in (("hard", self._hard), ("soft", self._soft)):
            if values:
                found[name] = round(sum(values) / len(values), 4)
        if self._decisions:
            found["agreement"] = round(self._agreed / self._decisions, 4)
        self._hard, self._soft, self._agreed, self._decisions = [], [], 0, 0
        return found


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.sum()
