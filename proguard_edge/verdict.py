"""Verdict: what a guard says about one request. Its JSON is the contract that everything reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from proguard_edge.answer import Label
from proguard_edge.template import Mode


@dataclass(frozen=True)
class Judgement:
    """A label, and the probability (0 to 1) that the thing is unsafe; unsafe from 0.5 on.

    Under a bound or a category's threshold the score is moved in logit space, so that it still is.
    """

    label: Label
    score: float


@dataclass(frozen=True)
class Risk:
    """The category of an unsafe verdict.

    `id` is None and `in_policy` False where the model named a risk that the policy does not have.
    `score` is the probability of this category among the allowed ones, given "unsafe".
    """

    id: str | None
    name: str
    in_policy: bool
    score: float


@dataclass(frozen=True)
class Verdict:
    """`response` is None where there was none to judge; `category` is None where all is safe.

    `evaluated` lists what was looked at: "user_text", "response", "image" (the model saw the
    picture), "image_text" (text was found in a picture and judged as text). A picture in which text
    was looked for and none was found has no "image_text", but an "ocr" among the timings.
    `tokens` counts prefix, content and generated tokens; `timings_ms` are milliseconds a phase.
    """

    request: Judgement
    response: Judgement | None
    category: Risk | None
    reasoning: str | None
    evaluated: tuple[str, ...]
    mode: Mode
    artifact: str
    tokens: dict[str, int] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def unsafe(self) -> bool:
        """Whether the request or the response is unsafe."""
        return self.request.label == "unsafe" or (
            self.response is not None and self.response.label == "unsafe"
        )

    @property
    def score(self) -> float:
        """The higher of the request's and the response's score."""
        return max(self.request.score, self.response.score if self.response else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "evaluated": list(self.evaluated)}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Verdict:
        """The inverse of `to_dict`."""
        return cls(
            request=Judgement(**raw["request"]),
            response=Judgement(**raw["response"]) if raw["response"] else None,
            category=Risk(**raw["category"]) if raw["category"] else None,
            reasoning=raw["reasoning"],
            evaluated=tuple(raw["evaluated"]),
            mode=raw["mode"],
            artifact=raw["artifact"],
            tokens=dict(raw["tokens"]),
            timings_ms=dict(raw["timings_ms"]),
        )
