"""Constrained decoding: walk the answer grammar with as few forward passes as there are decisions.

The first pass reads the content and everything up to the first label; forced tokens ride along
with the pass of the next decision; once only one answer is left, nothing more is computed. The
result is the one of greedy decoding under the same constraint (a test compares them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proguard_edge.answer import (
    LABELS,
    Answer,
    AnswerGrammar,
    FreeNames,
    Label,
    Node,
    is_id_like,
)
from proguard_edge.artifact import Calibration
from proguard_edge.engine.base import Choosing, EngineSequence
from proguard_edge.errors import AnswerError
from proguard_edge.image import Patches

THINK_OPEN = "<think>\n"
THINK_CLOSE = ("</think>", "</thinking>")


@dataclass(frozen=True)
class Decoded:
    """An answer, the P(unsafe) of its labels by part, the category's probability, tokens spent."""

    answer: Answer
    scores: dict[str, float]
    category_score: float
    generated: int


class AnswerDecoder:
    """Decodes answers of one grammar. `names` gives the masks for free names when one is needed."""

    def __init__(
        self,
        grammar: AnswerGrammar,
        names: Callable[[], FreeNames],
        calibration: Mapping[str, Calibration],
    ) -> None:
        self._grammar, self._names, self._calibration = grammar, names, calibration

    def decode(
        self,
        sequence: EngineSequence,
        ids: Sequence[int],
        images: Sequence[Patches] = (),
        labels: Mapping[str, Label] | None = None,
    ) -> Decoded:
        """Append `ids` (with `images` for their image tokens) and decode the answer behind them.

        labels: of parts that are decided already; they get no score. Raises AnswerError when the
        scores allow no answer; the engine's errors pass through.
        """
        return _Walk(self, sequence, list(ids), images, labels or {}).run()


class _Walk:
    """One descent through the trie."""

    def __init__(
        self,
        decoder: AnswerDecoder,
        sequence: EngineSequence,
        pending: list[int],
        images: Sequence[Patches],
        given: Mapping[str, Label],
    ) -> None:
        self._decoder, self._sequence, self._given = decoder, sequence, given
        self._pending, self._images = pending, images
        self._node: Node = decoder._grammar.root
        self._scores: dict[str, float] = {}
        self._labels: dict[str, Label] = {}
        self._log_category = 0.0
        self._generated = 0
        self._first = True

    def run(self) -> Decoded:
        while self._node.name_after is None and len(self._node.answers) > 1:
            if len(self._node.children) == 1:
                self._take(next(iter(self._node.children)))
            elif self._node.decides == "category":
                self._choose_branch()
            else:
                self._choose_label()
        if self._node.name_after is not None:
            return self._result(self._spell_category(self._node.name_after))
        return self._result(self._node.answers[0].category)

    def _result(self, category: str | None) -> Decoded:
        first = self._node.answers[0] if self._node.answers else None
        request = self._labels.get("request") or (first.request if first else "unsafe")
        answer = Answer(request, self._labels.get("response"), category)
        return Decoded(answer, self._scores, math.exp(self._log_category), self._generated)

    def _take(self, token: int) -> None:
        self._pending.append(token)
        self._generated += 1
        self._node = self._node.children[token]

    def _step(self) -> tuple[NDArray[np.int64], Sequence[Patches], str]:
        """What the next pass reads, and its phase; it is pending no more."""
        phase = "prefill" if self._first else "decode"
        step = np.array(self._pending, np.int64), self._images, phase
        self._pending, self._images, self._first = [], (), False
        return step

    def _logits(self, candidates: NDArray[np.int64] | None) -> NDArray[np.float64]:
        ids, images, phase = self._step()
        return _finite(self._sequence.extend(ids, images, candidates, phase)).astype(np.float64)

    def _likeliest(self, tokens: NDArray[np.int64], whole: bool) -> int:
        """The likeliest of `tokens`, whose share is counted; `whole`: of most of the vocabulary."""
        if isinstance(self._sequence, Choosing):
            ids, images, phase = self._step()
            best, share = self._sequence.choose(ids, images, tokens, phase)
        else:
            logits = self._logits(None)[tokens] if whole else self._logits(tokens)
            best = int(logits.argmax())
            share = float(logits[best] - np.logaddexp.reduce(logits))
        self._log_category += share
        return int(tokens[best])

    def _choose_label(self) -> None:
        """Softmax between the two labels, calibrated; unsafe from 0.5 on."""
        node = self._node
        part = str(node.decides)
        if part in self._given:
            self._follow(part, self._given[part])
            return
        tokens = list(node.children)
        logits = self._logits(np.array(tokens, np.int64))
        of = {
            label: [i for i, t in enumerate(tokens) if node.values.get(t) == label]
            for label in LABELS
        }
        weight = {label: np.logaddexp.reduce(logits[places]) for label, places in of.items()}
        calibration = self._decoder._calibration.get(part, Calibration())
        self._scores[part] = calibration.score(float(weight["unsafe"] - weight["safe"]))
        label: Label = "unsafe" if self._scores[part] >= 0.5 else "safe"
        self._labels[part] = label
        self._take(tokens[max(of[label], key=lambda i: float(logits[i]))])

    def _follow(self, part: str, label: Label) -> None:
        """Take the label that was given; its likeliest spelling where there are several."""
        tokens = [t for t in self._node.children if self._node.values.get(t) == label]
        self._labels[part] = label
        best = 0 if len(tokens) == 1 else int(self._logits(np.array(tokens, np.int64)).argmax())
        self._take(tokens[best])

    def _choose_branch(self) -> None:
        """The likelier of the ids that are still possible."""
        tokens = np.array(sorted(self._node.children), np.int64)
        self._take(self._likeliest(tokens, whole=False))

    def _spell_category(self, before: str) -> str:
        """An id of the policy or a free name, token by token over both possibilities at once."""
        names = self._decoder._names()
        node: Node | None = self._node
        text, count = "", 0
        while True:
            mask = names.allowed(text, count, before) if not is_id_like(text) else names.nothing()
            if node is not None:
                mask[list(node.children)] = True
            if not mask.any():
                raise AnswerError(f"the model spelled no category: {text!r}")
            tokens = np.flatnonzero(mask)
            token = self._likeliest(tokens, whole=True) if len(tokens) > 1 else int(tokens[0])
            if token == names.closing[0]:
                return text.strip(" :")
            self._pending.append(token)
            self._generated += 1
            text, count = text + names.pieces[token], count + 1
            node = node.children.get(token) if node is not None else None
            if node is not None and len(node.answers) == 1 and is_id_like(text):
                return str(node.answers[0].category)


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise AnswerError("the model's scores are not finite numbers: no verdict")
    return logits


@dataclass(frozen=True)
class Reasoning:
    """The model's thoughts, and what to append before the answer: tokens not yet read included.

    whole: content, thoughts and what closes them, for a sequence that has read none of it.
    """

    text: str
    pending: list[int]
    whole: list[int]
    generated: int


def reason(
    sequence: EngineSequence,
    ids: Sequence[int],
    images: Sequence[Patches],
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    pieces: Sequence[str],
    limit: int,
) -> Reasoning:
    """Greedy thoughts of at most `limit` tokens behind `<think>`; closed for the model if need be.

    Special tokens cannot be chosen, so nothing but text stands between the tags.
    """
    pending = [*ids, *encode(THINK_OPEN)]
    free = np.flatnonzero([piece != "" for piece in pieces])
    text, thought, generated, phase = "", list[int](), 0, "prefill"
    while generated < limit:
        read = np.array(pending, np.int64)
        if isinstance(sequence, Choosing):
            best, _ = sequence.choose(read, images, free, phase)
        else:
            # The head may have more rows than the tokenizer has tokens.
            best = int(_finite(sequence.extend(read, images, None, phase))[free].argmax())
        images, phase = (), "reason"
        token = int(free[best])
        pending, generated = [token], generated + 1
        thought.append(token)
        text += pieces[token]
        if any(tag in text for tag in THINK_CLOSE):
            break
    else:
        pending += encode("\n" + THINK_CLOSE[0])
        text += "\n" + THINK_CLOSE[0]
    if not text.endswith("\n"):
        pending += encode("\n")
    # Characters may be spread over tokens: only the whole can be turned into text.
    said = decode(thought)
    end = min((said.find(tag) for tag in THINK_CLOSE if tag in said), default=len(said))
    whole = [*ids, *encode(THINK_OPEN), *thought[:-1], *pending]
    return Reasoning(said[:end].strip(), pending, whole, generated)
