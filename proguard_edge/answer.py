"""The answer grammar: what the model may say, as token ids, and the strict parser of what it said.

    <answer>
    Request:safe|unsafe
    Response:safe|unsafe          (only where there is a response to judge)
    Category:None|<id>|<free name>
    </answer>

`AnswerGrammar` lays the canonical token sequences of all finite answers into one trie. A node with
one child is forced: its token needs no forward pass of its own and is appended together with the
next ones (jump-ahead). A node with several children is a decision about one field. From the node
where the category begins, a free name may be spelled instead of an id of the policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import AnswerError, ArtifactError
from proguard_edge.policy import Policy

Encode = Callable[[str], Sequence[int]]
Label = Literal["safe", "unsafe"]
Field = Literal["request", "response", "category"]
# The Response line: not there, decided by the model, or there but with no response to judge.
ResponseLine = Literal["absent", "judged", "empty"]

LABELS: tuple[Label, Label] = ("safe", "unsafe")
MAX_NAME_TOKENS = 16

_RESPONSES: dict[ResponseLine, tuple[Label | None, ...]] = {
    "absent": (None,),
    "judged": LABELS,
    "empty": ("safe",),
}

_ANSWER = re.compile(
    r"\s*(?:<(?P<tag>think|thinking)>(?P<reasoning>.*?)</(?P=tag)>\s*)?"
    r"<answer>\s*\n[ \t]*Request:[ \t]*(?P<request>safe|unsafe)[ \t]*\n"
    r"(?:[ \t]*Response:[ \t]*(?P<response>safe|unsafe)[ \t]*\n)?"
    r"[ \t]*Category:[ \t]*(?P<category>[^\n<>]+?)[ \t]*\n\s*</answer>\s*",
    re.DOTALL,
)
_WORDS = r"[A-Za-z0-9][A-Za-z0-9 '&/,-]*"
_ID_LIKE = re.compile(r"C\d+(S\d*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What the model decided. `category` is an id of the policy, a free name, or None."""

    request: Label
    response: Label | None
    category: str | None
    reasoning: str | None = None

    @property
    def unsafe(self) -> bool:
        return "unsafe" in (self.request, self.response)


def answer_text(request: str, response: str | None, category: str | None) -> str:
    """The answer in the model's output format, without reasoning, up to its closing tag."""
    lines = ["<answer>", f"Request:{request}"]
    if response is not None:
        lines.append(f"Response:{response}")
    return "\n".join([*lines, f"Category:{category or 'None'}", "</answer>"])


def parse_answer(text: str, policy: Policy, has_response: bool | None = None) -> Answer:
    """Read one whole answer, with `<think>` or `<thinking>` before it or without.

    `has_response`: whether a `Response:` line must (True) or must not (False) be there; None
    accepts both. Raises AnswerError for everything that is not exactly one allowed answer.
    """
    found = _ANSWER.fullmatch(text)
    if found is None:
        raise AnswerError(f"the model's answer does not follow the format: {text[-120:]!r}")
    request, response = found["request"], found["response"]
    if has_response is not None and has_response != (response is not None):
        raise AnswerError(f"the answer {'lacks' if has_response else 'has'} a Response line")
    category = found["category"].strip()
    unsafe = "unsafe" in (request, response)
    if unsafe == (category == "None"):
        raise AnswerError(f"labels and category contradict each other: {category!r}")
    if _ID_LIKE.fullmatch(category) and category not in policy.ids:
        raise AnswerError(f"the answer names {category}, which the policy does not have")
    reasoning = found["reasoning"]
    return Answer(
        request,  # type: ignore[arg-type]
        response,  # type: ignore[arg-type]
        category if unsafe else None,
        reasoning.strip() if reasoning is not None else None,
    )


@dataclass
class Node:
    """A place in the trie. `decides` is set where the children differ in what they decide.

    `name_after` is set where a free name may begin, and holds what must be written before it: ":"
    where the tokenizer may join the colon to the name, else "".
    """

    children: dict[int, Node] = field(default_factory=dict)
    decides: Field | None = None
    values: dict[int, str | None] = field(default_factory=dict)
    name_after: str | None = None
    answers: list[Answer] = field(default_factory=list)


class AnswerGrammar:
    """All allowed answers of one form under one policy.

    `encode` turns static text into token ids. Raises ArtifactError when the tokenizer cannot tell
    two answers apart.
    """

    def __init__(
        self, encode: Encode, policy: Policy, response: ResponseLine, free_names: bool = True
    ) -> None:
        self.policy = policy
        self.root = Node()
        responses = _RESPONSES[response]
        for answer in _finite_answers(policy, responses):
            text = answer_text(answer.request, answer.response, answer.category)
            self._insert(answer, [int(i) for i in encode(text)])
        self._annotate(self.root)
        if free_names:
            self._open_names(encode, responses)

    def _insert(self, answer: Answer, ids: list[int]) -> None:
        node = self.root
        node.answers.append(answer)
        for token in ids:
            node = node.children.setdefault(token, Node())
            node.answers.append(answer)
        if node.children or len(node.answers) > 1:
            raise ArtifactError("the tokenizer encodes two different answers alike")

    def _annotate(self, node: Node) -> None:
        for child in node.children.values():
            self._annotate(child)
        if len(node.children) < 2:
            return
        for name in ("request", "response", "category"):
            values = {t: {getattr(a, name) for a in c.answers} for t, c in node.children.items()}
            if len(set().union(*values.values())) > 1:
                node.decides = name
                node.values = {t: next(iter(v)) for t, v in values.items() if len(v) == 1}
                return

    def _open_names(self, encode: Encode, responses: Sequence[Label | None]) -> None:
        """Mark the nodes where the category of an unsafe answer begins."""
        for request in LABELS:
            for response in responses:
                if "unsafe" not in (request, response):
                    continue
                texts = [answer_text(request, response, x) for x in ("Arson", "None", "C1", "a b")]
                common = _common([list(encode(t)) for t in texts])
                node = self.root
                for token in common:
                    node = node.children[token]
                # The whole of "…Category:" is common unless a colon grew together with a name.
                head = texts[0].split("Arson")[0]
                joined = common != list(encode(head))
                node.name_after = ":" if joined else ""


class FreeNames:
    """Which tokens may continue a free category name, as masks over the vocabulary.

    `pieces[i]` is the text of token i, "" for special tokens.
    """

    def __init__(self, encode: Encode, pieces: Sequence[str]) -> None:
        head = list(encode("Category:Arson"))
        after = list(encode("Category:Arson\n</answer>"))[len(head) :]
        self.closing = [int(i) for i in after]
        self.pieces = list(pieces)
        clean = re.compile(rf" ?{_WORDS}|[ '&/,-]")
        joined = re.compile(rf":(?: ?{_WORDS})?")
        self._clean = np.array([bool(clean.fullmatch(p)) for p in self.pieces])
        self._colon = np.array([bool(joined.fullmatch(p)) for p in self.pieces])
        self._by_text: dict[str, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            bare = piece.strip(": ").lower()
            if len(bare) <= len("unsafe") and (self._clean[i] or self._colon[i]):
                self._by_text.setdefault(bare, []).append(i)
        self._digit = np.array([p.lstrip(": ")[:1].isdigit() for p in self.pieces])
        self._id_like = np.array([is_id_like(p) for p in self.pieces])

    def nothing(self) -> NDArray[np.bool_]:
        """bool [vocabulary], all False."""
        return np.zeros(len(self.pieces), bool)

    def allowed(self, text: str, tokens: int, before: str = "") -> NDArray[np.bool_]:
        """bool [vocabulary]: tokens that may follow `text`, which took `tokens` tokens.

        `before`: what `text` must begin with, see `Node.name_after`. The closing token is allowed
        once the name is complete, and alone when it must end.
        """
        name = text.removeprefix(before).lstrip(" ")
        mask = self.nothing()
        if tokens < MAX_NAME_TOKENS:
            mask |= self._colon if before and not text else self._clean
            if not name:
                # A name begins with a letter; an id of another policy is no name.
                mask &= ~self._digit & ~self._id_like
            if name == "C":
                mask &= ~self._digit
            # A model that says "unsafe" and then "None" contradicts itself: the next likely name
            # is better than one that begins with these words and is bent into another.
            for word in ("none", "safe", "unsafe"):
                if word.startswith(name.lower()):
                    mask[self._by_text.get(word[len(name) :], [])] = False
        if is_free_name(name):
            mask[self.closing[0]] = True
        return mask


def is_id_like(text: str) -> bool:
    """Whether a category that begins like this can only be an id."""
    return bool(re.match(r"[ :]*C\d", text))


def is_free_name(name: str) -> bool:
    """Whether a text can stand as the name of a risk: two letters or more, no id, no label."""
    name = name.strip()
    letters = sum(c.isalpha() for c in name)
    return letters >= 2 and not _ID_LIKE.match(name) and name.lower() not in {"none", *LABELS}


def _finite_answers(policy: Policy, responses: Sequence[Label | None]) -> list[Answer]:
    out = []
    for request in LABELS:
        for response in responses:
            unsafe = "unsafe" in (request, response)
            categories: Sequence[str | None] = policy.ids if unsafe else (None,)
            out += [Answer(request, response, category) for category in categories]
    return out


def _common(sequences: list[list[int]]) -> list[int]:
    out = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        out.append(int(tokens[0]))
    return out
