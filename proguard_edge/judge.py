"""Judge: one policy's prompts and answers on one engine; and how findings become a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proguard_edge.answer import AnswerGrammar, FreeNames, ResponseLine
from proguard_edge.artifact import Artifact
from proguard_edge.decoding import AnswerDecoder, Decoded, reason
from proguard_edge.engine.base import Engine
from proguard_edge.errors import AnswerError
from proguard_edge.image import Patches
from proguard_edge.pieces import Piece
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode, Prompt, PromptEncoder
from proguard_edge.thresholds import Thresholds
from proguard_edge.verdict import Judgement, Risk, Verdict


@dataclass(frozen=True)
class Usage:
    """Milliseconds a phase and tokens a kind, added up over the pieces of a request."""

    ms: dict[str, float]
    tokens: dict[str, int]

    def add(self, ms: dict[str, float], tokens: dict[str, int]) -> None:
        """Add one piece's figures."""
        for name, value in ms.items():
            self.ms[name] = self.ms.get(name, 0.0) + value
        for name, count in tokens.items():
            self.tokens[name] = self.tokens.get(name, 0) + count


@dataclass(frozen=True)
class Finding:
    """What the model said of one piece."""

    decoded: Decoded
    reasoning: str | None


class Judge:
    """Gives a finding for a piece. Grammars are built once for each form of answer."""

    def __init__(
        self,
        artifact: Artifact,
        engine: Engine,
        encoder: PromptEncoder,
        names: Callable[[], FreeNames],
        thresholds: Thresholds,
    ) -> None:
        self.encoder = encoder
        self._artifact, self._engine, self._names = artifact, engine, names
        self._thresholds = thresholds
        self._decoders: dict[str, AnswerDecoder] = {}

    def find(self, piece: Piece, mode: Mode, usage: Usage) -> Finding:
        """Run the model on one piece. Raises LimitError, TextError, EngineError, AnswerError."""
        images = [piece.image] if piece.image is not None else []
        prompt = self.encoder.content(
            piece.user, piece.response, [image.n_tokens for image in images], mode
        )
        decoder = self._decoder(piece)
        with self._engine.start(prompt.prefix_ids) as sequence:
            ids, thoughts = prompt.content_ids.tolist(), None
            if mode == "reason":
                thoughts = reason(
                    sequence,
                    ids,
                    images,
                    self.encoder.encode_static,
                    self.encoder.decode,
                    self.encoder.pieces,
                    self._artifact.limits.get("reason_tokens", 512),
                )
                ids = thoughts.pending
            decoded = decoder.decode(sequence, ids, images if thoughts is None else [])
            generated = decoded.generated + (thoughts.generated if thoughts else 0)
            counts = {"prefix": len(prompt.prefix_ids), "content": len(prompt.content_ids)}
            usage.add(sequence.timings.ms, {**counts, "generated": generated})
        whole = thoughts.whole if thoughts else ids
        named = self._named(decoded, decoder, prompt, whole, images, usage)
        settled = self._thresholds.settle(decoded, named)
        return Finding(settled, thoughts.text if thoughts else None)

    def _named(
        self,
        found: Decoded,
        decoder: AnswerDecoder,
        prompt: Prompt,
        ids: list[int],
        images: list[Patches],
        usage: Usage,
    ) -> Decoded:
        """`found`, or where it is safe but need not stay so, a second look that names a category.

        It starts from the prefix again: what the sequence has read says "safe".
        """
        labels = self._thresholds.possible(found.scores)
        if found.answer.unsafe or "unsafe" not in labels.values():
            return found
        with self._engine.start(prompt.prefix_ids) as sequence:
            named = decoder.decode(sequence, ids, images, labels)
            counts = {"content": len(ids), "generated": named.generated}
            usage.add(sequence.timings.ms, counts)
        return named

    def _decoder(self, piece: Piece) -> AnswerDecoder:
        form = self._form(piece)
        if form not in self._decoders:
            grammar = AnswerGrammar(
                self.encoder.encode_static, self.encoder.policy, form, self._artifact.free_names
            )
            self._decoders[form] = AnswerDecoder(grammar, self._names, self._artifact.calibration)
        return self._decoders[form]

    def _form(self, piece: Piece) -> ResponseLine:
        # Released ProGuard weights write a Response line for every conversation, answered or not.
        if piece.response is not None:
            return "judged"
        conversation = piece.image is None or piece.user is not None
        return "empty" if self._artifact.response_line == "always" and conversation else "absent"


def verdict_of(
    evaluated: tuple[str, ...],
    findings: Sequence[Finding],
    policy: Policy,
    mode: Mode,
    artifact: Artifact,
    usage: Usage,
) -> Verdict:
    """The worst of the findings: for each label its highest score, the category of the worst.

    `evaluated`: what was looked at, see Verdict.
    """
    of_request, of_response = _worst(findings, "request"), _worst(findings, "response")
    decisive = max(
        findings, key=lambda f: (f.decoded.answer.unsafe, max(f.decoded.scores.values()))
    )
    if of_request is None:
        raise AnswerError("no piece of the request was judged")
    return Verdict(
        request=of_request,
        response=of_response,
        category=_risk(decisive.decoded, policy),
        reasoning=decisive.reasoning,
        evaluated=evaluated,
        mode=mode,
        artifact=artifact.digest,
        tokens=usage.tokens,
        timings_ms={name: round(ms, 3) for name, ms in usage.ms.items()},
    )


def _worst(findings: Sequence[Finding], part: str) -> Judgement | None:
    scores = [f.decoded.scores[part] for f in findings if part in f.decoded.scores]
    if not scores:
        return None
    return Judgement("unsafe" if max(scores) >= 0.5 else "safe", max(scores))


def _risk(decoded: Decoded, policy: Policy) -> Risk | None:
    category = decoded.answer.category
    if category is None:
        return None
    if category in policy.ids:
        return Risk(category, policy.get(category).name, True, decoded.category_score)
    return Risk(None, category, False, decoded.category_score)
