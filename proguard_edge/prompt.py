"""Template and policy to token ids: a prefix that can be cached, and the content behind it.

How a prompt becomes ids
    The rendered template is a row of static texts and slots. Special tokens are recognised in the
    static texts only. Everything between two special tokens, static text and content together, is
    encoded in one run by a tokenizer that knows no special tokens. So the ids of a harmless prompt
    are those of the usual one-piece encoding (" hello" after "User:" stays one token), and no
    content can ever become a special token.

Why a second tokenizer
    `Tokenizer.encode_special_tokens = True` also stops the recognition, but only of tokens marked
    special (an added `<think>` or `<tool_call>` often is not), and it is a switch on an object
    that threads share: one reader that flips it back opens the gate for all. A tokenizer built
    without added tokens has no gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from proguard_edge.errors import ArtifactError, PolicyError, TextError
from proguard_edge.policy import Policy
from proguard_edge.template import Kind, Modality, Mode, Slot, Template
from proguard_edge.text import Defuser, clean
from proguard_edge.tokens import Ids, Parts, Vocabulary

# The model's own answer must not be imitated, whether or not the template shows its tags.
ANSWER_TAGS = {"<answer>", "</answer>", "<think>", "</think>", "<thinking>", "</thinking>"}

__all__ = ["ImageTokens", "Kind", "Modality", "Mode", "Prompt", "PromptEncoder", "Template"]


@dataclass(frozen=True)
class ImageTokens:
    """Ids of the tokens around and inside an image block; None where the tokenizer lacks them."""

    start_id: int | None
    pad_id: int | None
    end_id: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ImageTokens:
        """Looked up by the names that the Qwen-VL family gives them."""
        names = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
        return cls(*(tokenizer.token_to_id(name) for name in names))

    def block(self, tokens: int) -> list[int]:
        """Ids of one image of that many patch tokens. Raises ArtifactError, ValueError (< 1)."""
        if self.pad_id is None:
            raise ArtifactError("this artifact's tokenizer has no image token: it reads text only")
        if tokens < 1:
            raise ValueError(f"an image of {tokens} tokens")
        start = [] if self.start_id is None else [self.start_id]
        end = [] if self.end_id is None else [self.end_id]
        return [*start, *[self.pad_id] * tokens, *end]


@dataclass(frozen=True)
class Prompt:
    """Token ids of one request.

    prefix_ids int64 [P], read-only, the same for every content of one kind; content_ids int64 [C];
    image_token_id: the id whose occurrences stand for image features, None without images.
    """

    prefix_ids: Ids
    content_ids: Ids
    image_token_id: int | None


class PromptEncoder:
    """Makes prompts of one (tokenizer, template, policy). Immutable, safe to share by threads.

    Raises ArtifactError when the tokenizer cannot be used or disagrees with the template, and
    PolicyError when the policy contains a special token of the tokenizer.
    """

    def __init__(
        self,
        tokenizer_json: Path | str,
        template: Template,
        policy: Policy,
        *,
        image_tokens: ImageTokens | None = None,
    ) -> None:
        self._vocabulary = vocabulary = Vocabulary(Path(tokenizer_json))
        self.template = template
        self.image_tokens = image_tokens or ImageTokens.of(vocabulary.full)
        # Special tokens are defused too: text of a prompt may be sent on and tokenized elsewhere.
        tags = (
            template.tags
            | ANSWER_TAGS
            | {name for name in vocabulary.added if name.startswith("<")}
        )
        self._defuse = Defuser(tags, template.labels)
        self._set_policy(policy)

    def with_policy(self, policy: Policy) -> PromptEncoder:
        """The same encoder for another policy, without reading the tokenizer again."""
        other = copy(self)
        other._set_policy(policy)
        return other

    def _set_policy(self, policy: Policy) -> None:
        for category in policy.categories:
            for text in (category.name, category.description, *category.synonyms):
                if found := self._vocabulary.added_token(text):
                    raise PolicyError(f"{category.id} contains the model's special token {found!r}")
        self.policy = policy
        self._parts: dict[Kind, Parts] = {}

    def prefix(self, modality: Modality, mode: Mode, has_response: bool) -> Ids:
        """int64 [P], read-only: the ids that do not depend on any content."""
        return self._part(Kind(modality, mode, has_response)).prefix_ids

    def content(
        self,
        user: str | None,
        response: str | None,
        image_tokens: Sequence[int] = (),
        mode: Mode = "verdict",
    ) -> Prompt:
        """The prompt of a request; `image_tokens` holds the number of patch tokens of each image.

        A user text of white space only counts as none. An image without text is of modality
        "image"; with a response but no text it is "text-image" with an empty user turn.
        Raises TextError: nothing to judge, or text that cannot be encoded.
        """
        kind, texts = self._request(user, response, image_tokens, mode)
        part = self._part(kind)
        images = [i for tokens in image_tokens for i in self.image_tokens.block(tokens)]
        ids = self._vocabulary.encode(part.rest, texts, images)
        return Prompt(part.prefix_ids, ids, self.image_tokens.pad_id if image_tokens else None)

    def text(
        self,
        user: str | None,
        response: str | None,
        image_tokens: Sequence[int] = (),
        mode: Mode = "verdict",
    ) -> str:
        """The prompt of `content` as text. Raises as `content` does."""
        kind, texts = self._request(user, response, image_tokens, mode)
        images = [i for tokens in image_tokens for i in self.image_tokens.block(tokens)]
        filled = {**texts, "image": self.decode(images), "prefix_end": ""}
        pieces = self.template.render(self.policy, kind)
        return "".join(filled[p.name] if isinstance(p, Slot) else p for p in pieces)

    def prepare(self, text: str) -> str:
        """Content as it will stand in the prompt: checked, defused, in the tokenizer's normal form.

        Idempotent. Raises TextError.
        """
        return self._defuse(self._vocabulary.normalize(clean(text)))

    def count(self, text: str) -> int:
        """Number of tokens of a content. Raises TextError."""
        return len(self._vocabulary.plain.encode(self.prepare(text)).ids)

    def windows(self, text: str, max_tokens: int, overlap: int) -> list[str]:
        """Pieces of `prepare(text)` of at most `max_tokens` (by `count`) that cover all of it.

        Neighbours share about `overlap` tokens. A text that fits is one piece; no text is [].
        Raises TextError; ValueError unless 16 <= max_tokens and 0 <= overlap < max_tokens.
        """
        if max_tokens < 16 or not 0 <= overlap < max_tokens:
            raise ValueError(f"windows of {max_tokens} tokens that overlap by {overlap}")
        text = self.prepare(text)
        offsets = self._vocabulary.plain.encode(text).offsets
        starts = [0, *(start for start, _ in offsets[1:]), len(text)]
        found = []
        first = 0
        while starts[first] < len(text):
            last = self._window_end(text, starts, first, max_tokens)
            found.append(text[starts[first] : starts[last]])
            if starts[last] == len(text):
                break
            # Always forward, also where the overlap is longer than the window came out.
            first = max(_next_char(starts, first), last - overlap)
        return found

    def _window_end(self, text: str, starts: list[int], first: int, max_tokens: int) -> int:
        last = min(first + max_tokens, len(starts) - 1)
        # A piece on its own may take more tokens than as part of the whole: its first word lost
        # the space before it, or its first line now begins like a turn.
        while (excess := self.count(text[starts[first] : starts[last]]) - max_tokens) > 0:
            last = max(last - excess, _next_char(starts, first))
        return last

    def encode_static(self, text: str) -> list[int]:
        """Ids of a text of our own, special tokens recognised."""
        ids: list[int] = self._vocabulary.full.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def pieces(self) -> list[str]:
        """The text of every token by id; "" for special and added tokens."""
        return self._vocabulary.pieces()

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of ids, special tokens included."""
        text: str = self._vocabulary.full.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def _request(
        self, user: str | None, response: str | None, image_tokens: Sequence[int], mode: Mode
    ) -> tuple[Kind, dict[str, str]]:
        user = None if user is None or not user.strip() else user
        if user is None and not image_tokens and (response is None or not response.strip()):
            raise TextError("there is nothing to judge: give a text or an image")
        modality: Modality = "text-image" if image_tokens else "text"
        if image_tokens and user is None and response is None:
            modality = "image"
        texts = {"user": self.prepare(user or ""), "response": self.prepare(response or "")}
        return Kind(modality, mode, response is not None), texts

    def _part(self, kind: Kind) -> Parts:
        if kind not in self._parts:
            self._parts[kind] = self._vocabulary.split(self.template.render(self.policy, kind))
        return self._parts[kind]


def _next_char(starts: list[int], first: int) -> int:
    """The first token behind `first` that begins at another character."""
    return next(i for i in range(first + 1, len(starts)) if starts[i] > starts[first])
