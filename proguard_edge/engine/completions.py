"""What an OpenAI-compatible server says of one next token, read strictly.

`/v1/completions` lists the likeliest tokens with their log-probabilities. Differences of these are
differences of logits. vLLM names tokens by id ("token_id:42"); other servers, `trtllm-serve` among
them, by their text, which the artifact's tokenizer turns back into ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.engine.base import Ids
from proguard_edge.errors import EngineError
from proguard_edge.strict_json import json_object
from proguard_edge.tokens import Vocabulary

# How servers write the logarithm of 0.
ZERO = -9999.0
ID_PREFIX = "token_id:"


@dataclass(frozen=True)
class Listed:
    """The likeliest next tokens.

    logprobs: natural logarithms by token id. chosen: the token that the server took, None where
    its text may be several tokens; chosen_logprob: of that token. floor: no token that is not
    listed is likelier. unnamed: ids that a listed text may stand for without saying which one.
    unknown: whether a text was listed that is none of the tokenizer's.
    """

    logprobs: dict[int, float]
    chosen: int | None
    chosen_logprob: float
    floor: float
    unnamed: frozenset[int] = frozenset()
    unknown: bool = False

    @property
    def listed_mass(self) -> float:
        """Probability of the named tokens, 0 to 1."""
        return sum(math.exp(value) for value in self.logprobs.values())

    def likeliest(self, candidates: Ids) -> int | None:
        """The likeliest of `candidates` (ascending), the lowest of equals; None if none is listed.

        It is the likeliest of all candidates: every token that is not listed is below all that
        are. Raises EngineError where a text that names no one token may hide a likelier one.
        """
        present = self._present(candidates)
        if not present:
            best = None
        else:
            best = max(present, key=lambda token: (self.logprobs[token], -token))
            if self.logprobs[best] >= self.chosen_logprob:
                return best
        # Texts are keys: of two tokens that read alike, one has overwritten the other.
        if self.unknown or (self.unnamed and np.isin(candidates, list(self.unnamed)).any()):
            raise EngineError(
                "the server lists tokens by their text and a text is that of no token or of "
                "several; serve the model with vLLM, which names tokens by id"
            )
        return best

    def share(self, best: int, candidates: Ids) -> float:
        """Logarithm of a lower bound of `best`'s share of all that the candidates have.

        Candidates that are not listed are taken to have what is left, or each as much as the
        least likely listed token, whichever is less. Exact where all are listed.
        """
        top = self.logprobs[best]
        present = self._present(candidates)
        others = sum(math.exp(self.logprobs[token] - top) for token in present)
        missing = len(candidates) - len(present)
        left = max(0.0, 1.0 - self.listed_mass)
        if missing and left:
            others += math.exp(min(math.log(left), math.log(missing) + self.floor) - top)
        return -math.log(others)

    def _present(self, candidates: Ids) -> list[int]:
        tokens = np.fromiter(self.logprobs, np.int64, len(self.logprobs))
        return [int(token) for token in tokens[np.isin(tokens, candidates)]]


class TokenNames:
    """Reads the names that a server gives to tokens.

    tokenizer: a `tokenizer.json`, needed for `by_text` only. vocabulary: ids that the model has.
    Raises ArtifactError for a tokenizer that cannot be used.
    """

    def __init__(self, tokenizer: Path | None, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._ids: dict[str, list[int]] = {}
        texts = _texts(tokenizer) if tokenizer else []
        # A model may have rows behind the last token; servers write nothing for them.
        for token, text in enumerate([*texts, *[""] * (vocabulary - len(texts))]):
            self._ids.setdefault(text, []).append(token)

    def by_id(self, name: str) -> list[int]:
        """The id of "token_id:42". Raises EngineError."""
        digits = name.removeprefix(ID_PREFIX)
        if digits == name or not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise EngineError(f"the server names a token {name[:40]!r}, not {ID_PREFIX}<number>")
        if int(digits) >= self._vocabulary:
            raise EngineError(
                f"the server names token {digits}, the artifact's model has {self._vocabulary}: "
                "it serves another model"
            )
        return [int(digits)]

    def by_text(self, name: str) -> list[int]:
        """All ids whose text that is; none where the server writes a text in a way of its own."""
        return self._ids.get(name, [])


def model_card(answer: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The entry of `/v1/models` for `name`, or the only one. Raises EngineError."""
    cards = answer.get("data")
    cards = cards if isinstance(cards, list) else []
    known = {c["id"]: c for c in cards if isinstance(c, dict) and isinstance(c.get("id"), str)}
    listed = ", ".join(known)[:200] or "none"
    if name is not None and name not in known:
        raise EngineError(f"the server has no model {name!r}; it lists {listed}")
    if name is None and len(known) != 1:
        raise EngineError(f"the server lists the models {listed}: say which with --served-model")
    return dict(known[name] if name is not None else next(iter(known.values())))


def read_listed(answer: dict[str, Any], model: str, prompt_tokens: int, named: Any) -> Listed:
    """`answer`: a completion of one token. `named`: a method of TokenNames.

    Raises EngineError for everything that is not exactly the answer to what was asked.
    """
    if answer.get("model") != model:
        raise EngineError(f"the server answered with the model {str(answer.get('model'))[:80]!r}")
    usage = _get(answer, "usage", dict)
    if (count := _get(usage, "prompt_tokens", int)) != prompt_tokens:
        raise EngineError(
            f"the server read {count} tokens of a prompt of {prompt_tokens}: it cuts or adds some"
        )
    logprobs = _get(_only(answer, "choices", dict), "logprobs", dict)
    name = _only(logprobs, "tokens", str)
    chosen_logprob = _number(_only(logprobs, "token_logprobs", int | float))
    return _listed(_only(logprobs, "top_logprobs", dict), name, chosen_logprob, named)


def _listed(table: dict[str, Any], name: str, chosen_logprob: float, named: Any) -> Listed:
    if not table:
        raise EngineError("the server lists no tokens: it does not give log-probabilities")
    found: dict[int, float] = {}
    unnamed: set[int] = set()
    unknown, total = False, 0.0
    for text, raw in table.items():
        value, ids = _number(raw), named(text)
        total += math.exp(value)
        if len(ids) == 1:
            found[ids[0]] = value
        else:
            unnamed.update(ids)
            unknown = unknown or not ids
    if total > 1.01:
        raise EngineError(f"the server's probabilities add up to {total:.3f}")
    ids = named(name)
    return Listed(
        logprobs=found,
        chosen=ids[0] if len(ids) == 1 else None,
        chosen_logprob=chosen_logprob,
        floor=min(map(float, table.values())),
        unnamed=frozenset(unnamed),
        unknown=unknown,
    )


def _texts(tokenizer: Path) -> list[str]:
    """The text of every token by id, special ones included."""
    vocabulary = Vocabulary(tokenizer)
    texts = vocabulary.pieces()
    for text, token in vocabulary.added.items():
        texts[token] = text
    return texts


def parse_json(raw: bytes) -> dict[str, Any]:
    """A JSON object without NaN, infinities or a key twice. Raises EngineError."""
    try:
        return json_object(raw)
    except ValueError as error:
        raise EngineError(f"the server's answer is {error}") from None


def _get(holder: dict[str, Any], key: str, kind: Any) -> Any:
    value = holder.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        hint = " (it gives no log-probabilities?)" if key == "logprobs" else ""
        raise EngineError(f"the server's answer lacks {key!r}{hint}")
    return value


def _only(holder: dict[str, Any], key: str, kind: Any) -> Any:
    values = _get(holder, key, list)
    if len(values) != 1 or not isinstance(values[0], kind) or isinstance(values[0], bool):
        raise EngineError(f"the server's answer has {key!r} that is not one entry for one token")
    return values[0]


def _number(raw: Any) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not ZERO <= raw <= 1e-3:
        raise EngineError(f"the server gave the log-probability {str(raw)[:40]}")
    return float(raw)
