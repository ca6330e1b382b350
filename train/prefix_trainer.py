"""Training of text rows that share one policy prefix: the loop, its state, its schedule, its loss.

For one CPU, full precision, one policy and one template. What a run is for (`train.starter`,
`export.distill_prefix`) chooses the batches and may add to the loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from proguard_edge.errors import ArtifactError
from proguard_edge.train.examples import IGNORE, Example, Prompting, label_forks
from proguard_edge.train.fake_quant import rounded
from proguard_edge.train.prefix_lm import PrefixKV, PrefixLM
from proguard_edge.train.sft import load_model

BATCH_TOKENS = 1600
PREFIX_EVERY = 6
WARM_STEPS = 30
FORMAT_WEIGHT = 0.3

E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class Schedule:
    """tokens: of rows, the prefix not counted; rounded_tokens more are quantization-aware.

    rate: the peak; both phases fall to a twentieth along a cosine. frozen_layers: the lower decoder
    layers that rest, as the embeddings and the head do. save_every: seconds between saved states.
    """

    tokens: int
    rounded_tokens: int = 0
    rate: float = 1.5e-4
    rounded_rate: float = 8e-5
    frozen_layers: int = 0
    save_every: float = 240

    def rate_at(self, tokens: int, step: int) -> float:
        """The learning rate of the next step."""
        if tokens >= self.tokens:
            done = min(1.0, (tokens - self.tokens) / max(1, self.rounded_tokens))
            return self.rounded_rate * _cosine(done)
        return self.rate * min(1.0, (step + 1) / WARM_STEPS) * _cosine(tokens / self.tokens)


class PrefixTrainer(Generic[E]):
    """State of one run: model, optimizer, ids of the rows already seen, tokens consumed.

    checkpoint: the folder to begin with. state: the file that a stopped run goes on from. Raises
    ArtifactError when the checkpoint cannot be used.
    """

    def __init__(
        self,
        checkpoint: Path,
        state: Path,
        prompting: Prompting,
        prefix: Sequence[int],
        schedule: Schedule,
    ) -> None:
        self.prompting, self.schedule, self._state = prompting, schedule, state
        self.model: Any = load_model(checkpoint)
        self.lm = PrefixLM(self.model, schedule.frozen_layers)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.weights = self.lm.trainable()
        # The frozen layers ship rounded as well.
        self.matrices = [*self.lm.decoder.layers.parameters()]
        for parameter in self.weights:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.prefix_ids = torch.tensor(prefix)
        self.seen: set[str] = set()
        self.tokens = self.step = 0
        self.head: Tensor = self.model.lm_head.weight
        self.labels = torch.tensor(_label_tokens(prompting))
        self._load()

    @property
    def finished(self) -> bool:
        """Whether all tokens are spent."""
        return self.tokens >= self.schedule.tokens + self.schedule.rounded_tokens

    def _load(self) -> None:
        if self._state.exists():
            state = torch.load(self._state, weights_only=False)
            for parameter, value in zip(self.weights, state["weights"], strict=True):
                parameter.data.copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.seen, self.tokens, self.step = state["seen"], state["tokens"], state["step"]

    def save(self) -> None:
        """Write the state beside the last one and swap, so that a kill leaves a whole file."""
        state = {
            "weights": [p.detach() for p in self.weights],
            "optimizer": self.optimizer.state_dict(),
            "seen": self.seen,
            "tokens": self.tokens,
            "step": self.step,
        }
        temporary = self._state.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._state)

    def run(self, plan: Iterable[list[E]]) -> Iterator[float]:
        """Train on the batches until the tokens are spent; yields the loss of each step."""
        saved, prefix = time.time(), None
        for batch in plan:
            if self.finished:
                break
            with self.weights_as_shipped():
                if prefix is None or self.step % PREFIX_EVERY == 0:
                    prefix = self.lm.prefix(self.prefix_ids)
                loss = self._backward(batch, prefix)
            self._step(batch)
            # The prefix is fresh behind such a step: a run that goes on there is the same run.
            if self.step % PREFIX_EVERY == 0 and time.time() - saved >= self.schedule.save_every:
                saved = time.time()
                self.save()
            yield loss
        self.save()

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule.rate_at(self.tokens, self.step)

    def weights_as_shipped(self) -> AbstractContextManager[None]:
        """In the last phase the model computes with the rounded weights that it will ship with."""
        return rounded(self.matrices) if self.tokens >= self.schedule.tokens else nullcontext()

    def _backward(self, batch: list[E], prefix: PrefixKV) -> float:
        ids = pad([e.ids for e in batch], 0)
        loss = self.loss(batch, ids, self.lm.hidden(ids, prefix))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _step(self, batch: list[E]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.tokens += sum(len(e.ids) for e in batch)
        self.seen.update(e.id for e in batch)

    def loss(self, batch: list[E], ids: Tensor, hidden: Tensor) -> Tensor:  # noqa: ARG002
        """Of ids [B, S] and their hidden states [B, S, H]; a scalar.

        Labels: cross-entropy between the two label tokens alone. Other targets: full softmax.
        """
        targets = pad([e.targets for e in batch], IGNORE)
        is_label = marked(targets.shape, [e.label_at for e in batch])
        loss = hidden.new_zeros(())
        if is_label.any():
            difference = hidden[is_label] @ (self.head[self.labels[1]] - self.head[self.labels[0]])
            truth = targets[is_label] == self.labels[1]
            loss = F.binary_cross_entropy_with_logits(difference, truth.float())
        rest = (targets != IGNORE) & ~is_label
        if rest.any():
            loss = loss + FORMAT_WEIGHT * F.cross_entropy(hidden[rest] @ self.head.T, targets[rest])
        return loss


def pad(rows: list[list[int]], value: int) -> Tensor:
    """int64 [B, S], right-padded with `value`."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def marked(shape: torch.Size, positions: list[list[int]]) -> Tensor:
    """bool [B, S], True at each row's positions."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, places in enumerate(positions):
        mask[row, places] = True
    return mask


def _label_tokens(prompting: Prompting) -> tuple[int, int]:
    """Tokens of safe and unsafe, the same for request and response."""
    found = {(f.safe, f.unsafe) for f in label_forks(prompting.encode, "safe", True)}
    if len(found) > 1:
        raise ArtifactError("the tokenizer writes the labels of request and response differently")
    return found.pop()


def _cosine(done: float) -> float:
    return 0.05 + 0.475 * (1 + math.cos(math.pi * done))
