"""Out-of-policy names in groups, and a draft of a policy made of them.

A model that meets a risk which its policy lacks gives it a free name, and gives one risk many:
"Gambling Promotion", "promoting illegal gambling". Names are compared by their spelling alone. A
word counts by its stem and a stem by its character trigrams, so that inflection and slips of the
pen matter little. Words that say only that something is bad, or that somebody speaks of it, do not
count beside others. What is spelled differently stays apart, though it may mean the same: a person
joins groups more easily than finds what was mixed.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from proguard_edge.errors import PolicyError
from proguard_edge.policy import Category, Policy

# Between the closest names that must stay apart and the farthest that belong together, see the
# tests.
SIMILAR = 0.77
MAX_DRAFT_CATEGORIES = 200
MAX_DRAFT_NAME_CHARS = 60
MAX_DRAFT_SYNONYMS = 5
DESCRIPTION = "Draft: a person must write here what falls into this category and what does not."

_MAX_COMPARED_CHARS = 200
_EMPTY = re.compile("a|an|and|as|at|by|for|from|in|into|of|on|or|s|the|to|via|with")
_GENERIC = re.compile(
    "activit(y|ies)|advice|advoca(cy|ting)|assistance|behaviou?rs?|concerns?|content|danger(ous)?|"
    "depict(ions?|ing)|descri(ption|bing)|discussi(on|ng)|encourag(ement|ing)|enabling|"
    "facilitati(on|ng)|general|generation|glorif(ication|ying)|guid(e|ance)|harm(ful)?|illegal|"
    "illicit|improper|inappropriate|incit(ement|ing)|instructions?|issues?|materials?|online|other|"
    "potential|practices?|promot(ion|ing)|related|requests?|risk(s|y)?|unethical|unlawful|unsafe"
)
_WORD = re.compile(r"[^\W_]+")
_SUFFIXES = (
    *("ations", "ation", "itive", "ities", "ments", "ating", "ative", "ness", "ment", "ings"),
    *("ions", "ated", "ates", "ably", "able", "ing", "ion", "ity", "ive", "ers", "ies", "ate"),
    *("ied", "ist", "ism", "al", "er", "or", "en", "ed", "es", "ly", "s", "e", "y"),
)
_SHORTEST_STEM = 4
# Words that answers use for something else, and ids of categories.
_TAKEN = re.compile(r"none|safe|unsafe|c\d+(s\d*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """Names of what is probably one risk.

    name: the most frequent of them. count: how often all of them were given. names: (name, count),
    the most frequent first.
    """

    name: str
    count: int
    names: tuple[tuple[str, int], ...]


def group_names(counts: Mapping[str, int]) -> list[Group]:
    """Groups of similar names, the most frequent group first; names counted less than once are out.

    The order of `counts` does not matter. A name joins the group whose most frequent name is most
    like it, so that no chain of small steps joins what is far apart.
    """
    index = _Index()
    members: list[list[tuple[str, int]]] = []
    for name, count in sorted(counts.items(), key=_rank):
        if count < 1:
            continue
        features = _features(name)
        found, similarity = index.nearest(features)
        if similarity < SIMILAR:
            found = index.add(features)
            members.append([])
        members[found].append((name, count))
    groups = [Group(names[0][0], sum(n for _, n in names), tuple(names)) for names in members]
    return sorted(groups, key=lambda group: _rank((group.name, group.count)))


def policy_draft(groups: Iterable[Group], name: str = "draft", minimum: int = 1) -> Policy:
    """A policy of the groups with at least `minimum` counts, at most `MAX_DRAFT_CATEGORIES`.

    Categories are C1, C2, … in the order of `groups`; a group's other names are the synonyms; a
    person must write the descriptions. Raises PolicyError when no group is frequent enough, or
    `name` is no name for a policy.
    """
    frequent = [group for group in groups if group.count >= minimum][:MAX_DRAFT_CATEGORIES]
    if not frequent:
        raise PolicyError(f"no name was given {minimum} times: there is nothing to draft")
    categories: list[Category] = []
    taken: set[str] = set()
    for number, group in enumerate(frequent, 1):
        names = list(_usable(raw for raw, _ in group.names))
        title = _untaken(names[0] if names else "Unnamed risk", taken)
        synonyms = [other for other in names if other.casefold() != title.casefold()]
        categories.append(
            Category(f"C{number}", title, DESCRIPTION, tuple(synonyms[:MAX_DRAFT_SYNONYMS]))
        )
    return Policy(name=name, version="1", categories=tuple(categories))


def _rank(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _usable(names: Iterable[str]) -> Iterator[str]:
    """The names as a policy may hold them, each once whatever its case."""
    seen: set[str] = set()
    for name in names:
        cleaned = _cleaned(name)
        key = cleaned.casefold()
        if cleaned and not _TAKEN.fullmatch(cleaned) and key not in seen:
            seen.add(key)
            yield cleaned


def _cleaned(name: str) -> str:
    """On one line, without tags and unseen characters, at most `MAX_DRAFT_NAME_CHARS` long."""
    # Normalized first: a full-width < becomes a plain one.
    flat = unicodedata.normalize("NFKC", name[: 4 * MAX_DRAFT_NAME_CHARS])
    kept = (" " if unicodedata.category(c)[0] in "CZ" or c in "<>" else c for c in flat)
    return " ".join("".join(kept).split())[:MAX_DRAFT_NAME_CHARS].strip()


def _untaken(name: str, taken: set[str]) -> str:
    """The name, numbered where another category has it; it is taken from now on."""
    found, number = name, 1
    while found.casefold() in taken:
        number += 1
        found = f"{name} {number}"
    taken.add(found.casefold())
    return found


def _features(name: str) -> dict[str, float]:
    """Trigrams of the stems of a name with their weights, a vector of length 1."""
    found: dict[str, float] = {}
    for word in _words(name):
        padded = f"  {_stem(word)} "
        trigrams = [padded[at : at + 3] for at in range(len(padded) - 2)]
        for trigram in trigrams:
            found[trigram] = found.get(trigram, 0.0) + len(trigrams) ** -0.5
    length = sum(weight * weight for weight in found.values()) ** 0.5
    return {trigram: weight / length for trigram, weight in sorted(found.items())}


def _words(name: str) -> list[str]:
    """Those that say what the risk is, or all where none does. A name without any is one itself."""
    flat = unicodedata.normalize("NFKC", name[:_MAX_COMPARED_CHARS]).casefold()
    words = [word for word in _WORD.findall(flat) if not _EMPTY.fullmatch(word)]
    return [word for word in words if not _GENERIC.fullmatch(word)] or words or [f"\0{flat}"]


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST_STEM:
            return word.removesuffix(suffix)
    return word


class _Index:
    """Vectors by the trigrams they hold: those that share none with a name cost nothing."""

    def __init__(self) -> None:
        self._size = 0
        self._numbers: dict[str, array[int]] = {}
        self._weights: dict[str, array[float]] = {}

    def add(self, features: Mapping[str, float]) -> int:
        """The number, from 0, of the vector that now stands in the index."""
        for trigram, weight in features.items():
            self._numbers.setdefault(trigram, array("q")).append(self._size)
            self._weights.setdefault(trigram, array("d")).append(weight)
        self._size += 1
        return self._size - 1

    def nearest(self, features: Mapping[str, float]) -> tuple[int, float]:
        """Number and cosine of the nearest vector, the first of equals; (-1, 0.0) for none."""
        shared = [trigram for trigram in features if trigram in self._numbers]
        if not shared:
            return -1, 0.0
        # Views, which are gone before an array grows again.
        numbers = np.concatenate([np.frombuffer(self._numbers[t], np.int64) for t in shared])
        weights = np.concatenate(
            [features[t] * np.frombuffer(self._weights[t], np.float64) for t in shared]
        )
        cosines = np.bincount(numbers, weights)
        best = int(cosines.argmax())
        return best, float(cosines[best])
