"""The safety policy: which risks exist, under which id, and what falls into each.

A policy file is YAML, two levels deep:

    name: my-policy
    version: "1"
    language: en
    categories:
      - id: C1
        name: Copyright
        description: One sentence.
        synonyms: [Stolen creative work, ...]
        subcategories:
          - {id: C1S1, name: ..., description: ..., synonyms: [...]}

Every text of a policy becomes part of a prompt, so it stays on one line and holds no tag.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from proguard_edge.errors import PolicyError

MAX_FILE_BYTES = 1 << 20
MAX_TEXT_CHARS = 2000
MAX_CATEGORIES = 2000

_ID = re.compile(r"(C[1-9][0-9]{0,2})(S[1-9][0-9]{0,2})?")
# Controls, lone surrogates, line and paragraph separators: not for one line of a prompt.
_BROKEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class Category:
    """One risk. `parent` is None for `C<i>` and "C<i>" for `C<i>S<j>`."""

    id: str
    name: str
    description: str = ""
    synonyms: tuple[str, ...] = ()
    parent: str | None = None


@dataclass(frozen=True)
class Policy:
    """Categories in prompt order: every `C<i>` is followed by its own `C<i>S<j>`.

    Raises PolicyError on construction when anything is wrong, naming the entry and the fix.
    """

    name: str
    version: str
    categories: tuple[Category, ...]
    language: str = "en"

    def __post_init__(self) -> None:
        for field in ("name", "version", "language"):
            _check_text(getattr(self, field), f"the policy's {field}", required=True)
        _check_categories(self.categories)

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """Read a policy file. Raises PolicyError: unreadable, malformed, or not valid."""
        from proguard_edge.policies.reader import read_policy

        return read_policy(Path(path))

    @classmethod
    def default(cls) -> Policy:
        """The policy that ships with the package: 11 categories, 28 subcategories."""
        return _default()

    @classmethod
    def import_reference(cls, path: Path | str, name: str = "reference") -> Policy:
        """Read the taxonomy layout of the ProGuard release and number it C1…, C<i>S<j>.

        Raises PolicyError: unreadable, malformed, or not valid.
        """
        from proguard_edge.policies.reader import read_reference

        return read_reference(Path(path), name)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id in prompt order, parents and children."""
        return tuple(category.id for category in self.categories)

    def get(self, category_id: str) -> Category:
        """The category of that id. Raises PolicyError for an unknown id."""
        for category in self.categories:
            if category.id == category_id:
                return category
        raise PolicyError(f'policy "{self.name}" has no category {category_id!r:.80}')

    def children(self, category_id: str) -> tuple[Category, ...]:
        """The subcategories of a category, perhaps none. Raises PolicyError for an unknown id."""
        parent = self.get(category_id).id
        return tuple(category for category in self.categories if category.parent == parent)

    def leaves(self) -> tuple[Category, ...]:
        """What a verdict can name: all subcategories, and categories that have none."""
        parents = {category.parent for category in self.categories}
        return tuple(category for category in self.categories if category.id not in parents)

    def subset(self, ids: Iterable[str]) -> Policy:
        """Only these categories, ids unchanged.

        A child brings its parent. A parent named without any of its children brings all of them.
        Raises PolicyError for an unknown id, or when nothing is left.
        """
        named = {self.get(category_id).id for category_id in ids}
        parents = {self.get(category_id).parent for category_id in named}
        whole = named - parents
        return self._only(
            category.id
            for category in self.categories
            if category.id in named or category.id in parents or category.parent in whole
        )

    def without(self, ids: Iterable[str]) -> Policy:
        """All but these categories, ids unchanged.

        A parent takes its children along, and goes itself when its last child goes.
        Raises PolicyError for an unknown id, or when nothing is left.
        """
        named = {self.get(category_id).id for category_id in ids}
        kept = [c for c in self.leaves() if c.id not in named and c.parent not in named]
        return self._only({c.id for c in kept} | {c.parent for c in kept if c.parent})

    def _only(self, ids: Iterable[str]) -> Policy:
        kept = set(ids)
        return replace(self, categories=tuple(c for c in self.categories if c.id in kept))

    def to_yaml(self) -> str:
        """The policy as a file that `load` reads back to an equal policy."""
        from proguard_edge.policies.reader import write_policy

        return write_policy(self)

    def digest(self) -> str:
        """sha256 (hex) over canonical JSON: it does not depend on how the file is written."""
        content = {
            "name": self.name,
            "version": self.version,
            "language": self.language,
            "categories": [
                [c.id, c.name, c.description, list(c.synonyms)] for c in self.categories
            ],
        }
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


@cache
def _default() -> Policy:
    return Policy.load(Path(__file__).parent / "policies" / "default.yaml")


def _check_text(text: Any, where: str, *, required: bool) -> None:
    if not isinstance(text, str):
        raise PolicyError(f"{where} is not text but {type(text).__name__}: put it in quotes")
    if required and not text:
        raise PolicyError(f"{where} is empty: give it a text")
    if len(text) > MAX_TEXT_CHARS:
        raise PolicyError(f"{where} has {len(text)} characters: keep to {MAX_TEXT_CHARS}")
    if any(unicodedata.category(char) in _BROKEN for char in text):
        raise PolicyError(f"{where} holds a line break or a control character: put it on one line")
    if "<" in text or ">" in text:
        raise PolicyError(f"{where} holds < or >, which could pass for a tag of the prompt: reword")
    if text != text.strip():
        raise PolicyError(f"{where} begins or ends with a space: remove it")


def _check_categories(categories: tuple[Category, ...]) -> None:
    if not categories:
        raise PolicyError("the policy has no category: give it at least one")
    if len(categories) > MAX_CATEGORIES:
        raise PolicyError(f"the policy has {len(categories)} categories: keep to {MAX_CATEGORIES}")
    seen_ids: set[str] = set()
    seen_names: dict[str, str] = {}
    parent = None
    for category in categories:
        _check_category(category, parent)
        if category.id in seen_ids:
            raise PolicyError(f"{category.id} stands twice in the policy: give each its own id")
        seen_ids.add(category.id)
        other = seen_names.setdefault(category.name.casefold(), category.id)
        if other != category.id:
            raise PolicyError(f'{other} and {category.id} are both named "{category.name}"')
        if category.parent is None:
            parent = category.id


def _check_category(category: Category, parent: str | None) -> None:
    if not isinstance(category.id, str) or not (match := _ID.fullmatch(category.id)):
        shown = f'"{category.id:.40}"' if isinstance(category.id, str) else "an id"
        raise PolicyError(f"{shown} is not a category id: use C1, C2, … and C1S1, C1S2, …")
    expected = match[1] if match[2] else None
    if category.parent != expected:
        raise PolicyError(f"{category.id} must have the parent {expected}")
    if expected is not None and expected != parent:
        raise PolicyError(f"{category.id} must stand below its category {expected}")
    _check_text(category.name, f"the name of {category.id}", required=True)
    if category.name.casefold() == "none" or _ID.fullmatch(category.name):
        raise PolicyError(
            f'{category.id} cannot be named "{category.name}": that word has a meaning in answers'
        )
    _check_text(category.description, f"the description of {category.id}", required=False)
    for synonym in category.synonyms:
        _check_text(synonym, f"a synonym of {category.id}", required=True)
