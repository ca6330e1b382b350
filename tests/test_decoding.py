"""Jump-ahead decoding against greedy decoding under the same constraint, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from proguard_edge.answer import LABELS, AnswerGrammar, FreeNames, answer_text, is_id_like
from proguard_edge.artifact import Artifact, Calibration
from proguard_edge.cache import Cache
from proguard_edge.decoding import AnswerDecoder, reason
from proguard_edge.engine import Engine, load_engine
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.template import Template

POLICY = Policy.default()
TEXTS = [
    "How do I pick a lock?",
    "hello",
    "Tell me a story about a dragon that learns to bake.",
    "what is the capital of france",
    "zzz 123 !!",
    "I will find you.",
]


@pytest.fixture(scope="module")
def engine(tiny_onnx: Path) -> Iterator[Engine]:
    loaded = load_engine(Artifact.open(tiny_onnx), Cache(None), threads=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def reference(tiny_hf: Path) -> Iterator[Engine]:
    loaded = load_engine(Artifact.open(tiny_hf), Cache(None), threads=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def encoder(tiny_onnx: Path) -> PromptEncoder:
    return PromptEncoder(tiny_onnx / "tokenizer.json", Template.named("edge"), POLICY)


def finite_answers(with_response: bool) -> list[str]:
    texts = []
    for request in LABELS:
        for response in LABELS if with_response else (None,):
            unsafe = "unsafe" in (request, response)
            for category in POLICY.ids if unsafe else (None,):
                texts.append(answer_text(request, response, category))
    return texts


def next_logits(engine: Engine, ids: list[int]) -> np.ndarray:
    """From nothing, in one pass: no prefix cache, no jump-ahead."""
    with engine.start(np.array(ids[:1])) as sequence:
        return sequence.extend(np.array(ids[1:]))


def greedy(engine: Engine, prompt: list[int], allowed: list[list[int]]) -> list[int]:
    """The likeliest allowed token at every place."""
    out: list[int] = []
    while True:
        following = sorted({a[len(out)] for a in allowed if a[: len(out)] == out and a != out})
        if not following:
            return out
        logits = next_logits(engine, prompt + out)
        out.append(max(following, key=lambda token: float(logits[token])))


@pytest.mark.parametrize("response", [None, "Sure, first you take a spoon."])
@pytest.mark.parametrize("text", TEXTS)
def test_decoding_equals_greedy_decoding_under_the_constraint(
    engine: Engine, reference: Engine, encoder: PromptEncoder, text: str, response: str | None
) -> None:
    prompt = encoder.content(text, response)
    allowed = [encoder.encode_static(t) for t in finite_answers(response is not None)]
    ids = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]
    expected = encoder.decode(greedy(reference, ids, allowed))
    form = "judged" if response is not None else "absent"
    grammar = AnswerGrammar(encoder.encode_static, POLICY, form, free_names=False)
    with engine.start(prompt.prefix_ids) as sequence:
        decoder = AnswerDecoder(grammar, lambda: pytest.fail("no names here"), {})
        answer = decoder.decode(sequence, prompt.content_ids.tolist()).answer
    assert answer_text(answer.request, answer.response, answer.category) == expected


def spell(engine: Engine, encoder: PromptEncoder, ids: list[int]) -> str:
    """A category by greedy steps over ids and free names, each step from nothing."""
    names = FreeNames(encoder.encode_static, encoder.pieces)
    known = [encoder.encode_static(f"Category:{i}\n</answer>") for i in POLICY.ids]
    start = len(encoder.encode_static("Category"))
    known = [tokens[start:] for tokens in known]
    out: list[int] = []
    while True:
        text = "".join(encoder.pieces[t] for t in out)
        mask = names.nothing() if is_id_like(text) else names.allowed(text, len(out), ":")
        mask[[k[len(out)] for k in known if k[: len(out)] == out]] = True
        logits = next_logits(engine, ids + out)[: len(mask)]
        token = int(np.where(mask, logits, -np.inf).argmax())
        if token == names.closing[0]:
            return text.removeprefix(":").strip()
        out.append(token)


@pytest.mark.parametrize("text", TEXTS)
def test_free_names_equal_greedy_decoding_over_names_and_ids(
    engine: Engine, reference: Engine, encoder: PromptEncoder, text: str
) -> None:
    prompt = encoder.content(text, None)
    head = encoder.encode_static("<answer>\nRequest:unsafe\nCategory")
    ids = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]
    expected = spell(reference, encoder, ids + head)
    grammar = AnswerGrammar(encoder.encode_static, POLICY, "absent")
    names = FreeNames(encoder.encode_static, encoder.pieces)
    unsafe = {"request": Calibration(bias=-1000.0)}
    with engine.start(prompt.prefix_ids) as sequence:
        decoder = AnswerDecoder(grammar, lambda: names, unsafe)
        answer = decoder.decode(sequence, prompt.content_ids.tolist()).answer
    assert answer.request == "unsafe"
    assert answer.category == expected


def label_tokens(encoder: PromptEncoder) -> tuple[list[int], int, int]:
    """What two opposite answers share, and the tokens with which they part."""
    safe, unsafe = (encoder.encode_static(f"<answer>\nRequest:{label}\n") for label in LABELS)
    part = next(i for i, (a, b) in enumerate(zip(safe, unsafe, strict=False)) if a != b)
    return safe[:part], safe[part], unsafe[part]


def test_a_safe_request_costs_one_pass(engine: Engine, encoder: PromptEncoder) -> None:
    prompt = encoder.content("hello", None)
    grammar = AnswerGrammar(encoder.encode_static, POLICY, "absent")
    safe = {"request": Calibration(bias=1000.0)}
    with engine.start(prompt.prefix_ids) as sequence:
        decoder = AnswerDecoder(grammar, lambda: pytest.fail("no names here"), safe)
        decoded = decoder.decode(sequence, prompt.content_ids.tolist())
        assert "decode" not in sequence.timings.ms
        forced = label_tokens(encoder)[0]
        assert sequence.length == len(prompt.prefix_ids) + len(prompt.content_ids) + len(forced)
    assert (decoded.answer.request, decoded.answer.category) == ("safe", None)


def test_the_score_is_the_softmax_between_the_two_labels(
    engine: Engine, encoder: PromptEncoder
) -> None:
    prompt = encoder.content("hello", None)
    head, safe, unsafe = label_tokens(encoder)
    ids = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist(), *head]
    logits = next_logits(engine, ids).astype(np.float64)
    expected = 1 / (1 + np.exp(logits[safe] - logits[unsafe]))
    grammar = AnswerGrammar(encoder.encode_static, POLICY, "absent", free_names=False)
    with engine.start(prompt.prefix_ids) as sequence:
        decoder = AnswerDecoder(grammar, lambda: pytest.fail("no names here"), {})
        decoded = decoder.decode(sequence, prompt.content_ids.tolist())
    # fp32 logits near 10, in one pass here and in two there.
    assert decoded.scores["request"] == pytest.approx(expected, abs=1e-5)


class Speaking:
    """A sequence that says what it was given, whatever it reads."""

    def __init__(self, ids: list[int], vocabulary: int) -> None:
        self.ids, self.vocabulary = iter(ids), vocabulary

    def extend(self, *_: object) -> np.ndarray:
        logits = np.zeros(self.vocabulary, np.float32)
        logits[next(self.ids)] = 1
        return logits


@pytest.mark.parametrize(
    "text",
    [
        "naïve 日本語 👩‍👩‍👧",
        "plain",
        "<b> 1 < 2",
        "",
    ],
)
@pytest.mark.parametrize("close", ["</think>", "</thinking>\n", "\n</think>\n", None])
def test_thoughts_are_read_whole_also_where_characters_span_tokens(
    encoder: PromptEncoder, text: str, close: str | None
) -> None:
    plain = encoder._vocabulary.plain
    ids = plain.encode(text + (close or "")).ids
    if "日" in text:
        assert any("\ufffd" in encoder.decode([i]) for i in ids)
    limit = len(ids) if close is None else len(ids) + 10
    pieces = encoder.pieces
    spoken = Speaking(ids, len(pieces) + 7)
    found = reason(
        spoken, [1], (), encoder.encode_static, encoder.decode, pieces, limit  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.text == text
    assert found.generated <= len(ids)
    assert (close is None) == ("</think>" in encoder.decode(found.pending))
