"""The strict parser and the answer grammar."""

from __future__ import annotations

import pytest

from proguard_edge.answer import (
    Answer,
    AnswerGrammar,
    FreeNames,
    Node,
    answer_text,
    is_free_name,
    parse_answer,
)
from proguard_edge.errors import AnswerError, ArtifactError
from proguard_edge.policy import Policy

POLICY = Policy.default()
CLOSED = "Category:None\n</answer>"

ACCEPTED = {
    "<answer>\nRequest:safe\nCategory:None\n</answer>": Answer("safe", None, None),
    "<think>\nfine\n</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:None\n</answer>": (
        Answer("safe", "safe", None, "fine")
    ),
    "<thinking>a\nb</thinking><answer>\nRequest:unsafe\nCategory:C8S1\n</answer>": (
        Answer("unsafe", None, "C8S1", "a\nb")
    ),
    "<answer>\nRequest: safe\nResponse: unsafe\nCategory: C7\n</answer>\n": (
        Answer("safe", "unsafe", "C7")
    ),
    "<answer>\nRequest:unsafe\nCategory:Cruel prank on pets\n</answer>": (
        Answer("unsafe", None, "Cruel prank on pets")
    ),
}

REFUSED = [
    "",
    "safe",
    "Request:safe\nCategory:None",
    "<answer>\nRequest:safe\nCategory:None",
    "<answer>\nRequest:maybe\nCategory:None\n</answer>",
    "<answer>\nRequest:Safe\nCategory:None\n</answer>",
    "<answer>\nResponse:safe\nCategory:None\n</answer>",
    "<answer>\nRequest:safe\n</answer>",
    "<answer>\nRequest:safe\nCategory:C8S1\n</answer>",
    "<answer>\nRequest:unsafe\nCategory:None\n</answer>",
    "<answer>\nRequest:safe\nResponse:unsafe\nCategory:None\n</answer>",
    "<answer>\nRequest:unsafe\nCategory:C99\n</answer>",
    "<answer>\nRequest:unsafe\nCategory:c8s9\n</answer>",
    "<answer>\nRequest:unsafe\nCategory:\n</answer>",
    "<answer>\nRequest:unsafe\nRequest:safe\nCategory:None\n</answer>",
    "<answer>\nRequest:safe\nCategory:None\n</answer>\n<answer>\nRequest:unsafe",
    "<think>open<answer>\nRequest:safe\nCategory:None\n</answer>",
    "<think>x</thinking><answer>\nRequest:safe\nCategory:None\n</answer>",
    "I say <answer>\nRequest:safe\nCategory:None\n</answer>",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_an_answer_in_the_format_is_read(text: str) -> None:
    assert parse_answer(text, POLICY) == ACCEPTED[text]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_an_error_and_never_safe(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_answer(text, POLICY)


def test_the_response_line_must_be_there_exactly_when_a_response_is_judged() -> None:
    without = "<answer>\nRequest:safe\n" + CLOSED
    with_it = "<answer>\nRequest:safe\nResponse:safe\n" + CLOSED
    assert parse_answer(with_it, POLICY, has_response=True).response == "safe"
    for text, has_response in ((without, True), (with_it, False)):
        with pytest.raises(AnswerError):
            parse_answer(text, POLICY, has_response)


def test_what_the_grammar_writes_the_parser_reads() -> None:
    for response in (None, "safe", "unsafe"):
        for category in POLICY.ids:
            text = answer_text("unsafe", response, category)
            assert parse_answer(text, POLICY) == Answer("unsafe", response, category)


def letters(text: str) -> list[int]:
    """A tokenizer of one token a character."""
    return [ord(char) for char in text]


def leaves(node: Node) -> list[Answer]:
    if not node.children:
        return node.answers
    return [answer for child in node.children.values() for answer in leaves(child)]


def test_the_trie_holds_every_allowed_answer_once() -> None:
    found = leaves(AnswerGrammar(letters, POLICY, "judged", free_names=False).root)
    assert len(found) == len(set(found)) == 1 + 3 * len(POLICY.ids)
    assert not any(a.unsafe and a.category is None for a in found)


def test_an_empty_response_cannot_be_called_unsafe() -> None:
    found = leaves(AnswerGrammar(letters, POLICY, "empty", free_names=False).root)
    assert {answer.response for answer in found} == {"safe"}


def test_labels_are_decided_where_their_tokens_part() -> None:
    node = AnswerGrammar(letters, POLICY, "absent").root
    spelled = ""
    while len(node.children) == 1:
        ((token, node),) = node.children.items()
        spelled += chr(token)
    assert spelled == "<answer>\nRequest:"
    assert node.decides == "request"
    assert node.values == {ord("s"): "safe", ord("u"): "unsafe"}


def test_a_tokenizer_that_hides_the_difference_is_refused() -> None:
    with pytest.raises(ArtifactError):
        AnswerGrammar(lambda text: letters(text.replace("C8S1", "C8S2")), POLICY, "absent")


PIECES = [chr(i) if i >= 32 or i == 10 else "" for i in range(128)]


def spelled(name: str) -> bool:
    """Whether the masks let a name through, character by character, to its end."""
    names = FreeNames(letters, PIECES)
    for i, char in enumerate(name):
        if not names.allowed(name[:i], i)[ord(char)]:
            return False
    return bool(names.allowed(name, len(name))[names.closing[0]])


@pytest.mark.parametrize("name", ["Arson", "Cyber abuse", "C", "Nuisance", "Unsolicited mail"])
def test_free_names_can_be_spelled(name: str) -> None:
    assert spelled(name) == is_free_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "None",
        "none",
        "safe",
        "UNSAFE",
        "C8S1",
        "C9",
        "8 things",
        "a",
        "",
        "<b>",
        "a\nb",
        "None of it",
    ],
)
def test_labels_ids_and_tags_are_no_names(name: str) -> None:
    assert not spelled(name)


def test_a_name_ends_at_the_limit() -> None:
    names = FreeNames(letters, PIECES)
    assert list(names.allowed("A very long name", 16).nonzero()[0]) == [names.closing[0]]
