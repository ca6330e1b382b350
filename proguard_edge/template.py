"""Template: a Jinja file that renders a whole chat prompt, with slots where content will stand.

The template sees the policy and the kind of the request, never its content: a slot renders as a
private mark, and the rendered text is cut at the marks. So no content can reach Jinja.

Variables of a template:
    policy         name, version, language, categories (id, name, description, synonyms, parent)
    modality       "text" | "text-image" | "image"
    mode           "verdict" | "reason"
    has_response   whether there is a response to judge
    slot.prefix_end    optional: what stands before it is the part worth caching
    slot.image     empty in modality "text"
    slot.user, slot.response
Rendering uses trim_blocks and lstrip_blocks, as chat templates commonly do.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proguard_edge.errors import ArtifactError
from proguard_edge.policy import Category, Policy

Modality = Literal["text", "text-image", "image"]
Mode = Literal["verdict", "reason"]
SLOTS = ("prefix_end", "image", "user", "response")

MAX_FILE_BYTES = 1 << 18

# What an expression in a template can raise besides Jinja's own errors.
_RENDER_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)

_TAG = re.compile(r"<[^<>\n]+>")


@dataclass(frozen=True)
class Kind:
    """The kind of a request: all that a template may depend on besides the policy."""

    modality: Modality
    mode: Mode
    has_response: bool


KINDS = tuple(
    Kind(modality, mode, has_response)
    for modality, mode, has_response in product(get_args(Modality), get_args(Mode), (False, True))
    # A lone image has nobody who could have answered it.
    if not (modality == "image" and has_response)
)


@dataclass(frozen=True)
class Slot:
    """A place for content between the static texts of a rendered template."""

    name: str


Piece = str | Slot


class Template:
    """A compiled template. Raises ArtifactError on construction when its syntax is wrong."""

    def __init__(self, source: str) -> None:
        self.source = source
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
        try:
            self._compiled = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ArtifactError(f"the template is not valid: {error}") from None

    @classmethod
    def load(cls, path: Path | str) -> Template:
        """Read a UTF-8 file. Raises ArtifactError: unreadable, too large, or not valid."""
        try:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
        if len(raw) > MAX_FILE_BYTES:
            raise ArtifactError(f"{path}: the template is larger than {MAX_FILE_BYTES} bytes")
        try:
            return cls(raw.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ArtifactError(f"{path}: the template is not UTF-8") from None
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None

    @classmethod
    def named(cls, name: str) -> Template:
        """A template that ships with the package."""
        return cls.load(Path(__file__).parent / "templates" / f"{name}.jinja")

    def digest(self) -> str:
        """sha256 (hex) of the source with "\\n" line ends."""
        source = self.source.replace("\r\n", "\n").replace("\r", "\n")
        return hashlib.sha256(source.encode()).hexdigest()

    def render(self, policy: Policy, kind: Kind) -> tuple[Piece, ...]:
        """Static texts and slots in order, no empty text, two texts never side by side.

        Raises ArtifactError when the template fails or a slot is missing or stands twice.
        """
        nonce = secrets.token_hex(16)
        # Neither a template nor a policy can hold NUL, and nobody can guess the nonce.
        slots = {name: f"\0{nonce}:{name}\0" for name in SLOTS}
        if kind.modality == "text":
            slots["image"] = ""
        try:
            text = self._compiled.render(
                policy=_view(policy),
                modality=kind.modality,
                mode=kind.mode,
                has_response=kind.has_response,
                slot=slots,
            )
        except _RENDER_FAILURES as error:
            raise ArtifactError(f"the template cannot be rendered: {error}") from None
        parts = re.split(f"\0{nonce}:([a-z_]+)\0", text)
        pieces = [Slot(part) if i % 2 else part for i, part in enumerate(parts)]
        _check_slots(pieces, kind)
        return tuple(piece for piece in pieces if piece != "")

    @cached_property
    def tags(self) -> frozenset[str]:
        """Every `<...>` of the static text, over all kinds of request."""
        return frozenset(
            tag
            for pieces in self._static
            for piece in pieces
            if isinstance(piece, str)
            for tag in _TAG.findall(piece)
        )

    @cached_property
    def labels(self) -> frozenset[str]:
        """What opens a turn ("User:", "Agent:"): the line that stands before a text slot."""
        found = set()
        for pieces in self._static:
            for before, slot in pairwise(pieces):
                if isinstance(before, str) and slot in (Slot("user"), Slot("response")):
                    line = before.rpartition("\n")[2]
                    found.add(_TAG.sub("", line).strip())
        return frozenset(found - {""})

    @cached_property
    def _static(self) -> tuple[tuple[Piece, ...], ...]:
        # Any policy does: the texts of a policy hold no tags and stand before no slot.
        policy = Policy("any", "1", (Category("C1", "Any"),))
        return tuple(self.render(policy, kind) for kind in KINDS)


def _view(policy: Policy) -> dict[str, Any]:
    """The policy as plain data: a Policy has methods that open files, a template need not."""
    return {
        "name": policy.name,
        "version": policy.version,
        "language": policy.language,
        "categories": [vars(category) for category in policy.categories],
    }


def _check_slots(pieces: list[Piece], kind: Kind) -> None:
    names = [piece.name for piece in pieces if isinstance(piece, Slot)]
    needed = {
        "prefix_end": False,
        "image": kind.modality != "text",
        "user": kind.modality != "image",
        "response": kind.has_response,
    }
    where = f"({kind.modality}, {kind.mode}, {'with' if kind.has_response else 'no'} response)"
    for name, must in needed.items():
        if not int(must) <= names.count(name) <= 1:
            many = names.count(name)
            raise ArtifactError(f"slot.{name} stands {many} times in the template {where}")
    if "prefix_end" in names[1:]:
        raise ArtifactError(f"slot.prefix_end must stand before all other slots {where}")
