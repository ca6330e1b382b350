"""Policy augmentation: the same row under another policy, with the target that belongs to it.

ProGuard (arXiv 2512.23573) is trained to read the policy instead of learning its ids: categories
change their places and numbers from row to row, and some are hidden. Where the row's own category
is hidden, the right answer is no longer an id but a name for the missing risk.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from proguard_edge.policy import Category, Policy
from proguard_edge.train.rows import LABELS, Row


@dataclass(frozen=True)
class Target:
    """What is right about a row under its policy.

    `request`, `response`: "safe", "unsafe", or None where nobody labelled it. At most one of these
    is set, and only where a label is unsafe: `category`, an id of the policy, or `ood_name`, the
    name of a hidden category, with its `synonyms`. Neither: nobody named the category.
    Raises ValueError for anything else.
    """

    request: str | None
    response: str | None
    category: str | None = None
    ood_name: str | None = None
    synonyms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(label not in (None, *LABELS) for label in (self.request, self.response)):
            raise ValueError(f"labels {self.request!r} and {self.response!r}: safe, unsafe or None")
        if self.category is not None and self.ood_name is not None:
            raise ValueError("a category is in the policy or it is not")
        if (self.category or self.ood_name) and not self.unsafe:
            raise ValueError("only an unsafe row has a category")
        if self.synonyms and self.ood_name is None:
            raise ValueError("synonyms belong to a hidden category's name")

    @property
    def unsafe(self) -> bool:
        """Whether any part is labelled unsafe."""
        return "unsafe" in (self.request, self.response)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back to an equal target."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Target:
        """Raises ValueError for JSON that is not a target."""
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("a target is a JSON object")
        try:
            return cls(**{**raw, "synonyms": tuple(raw.get("synonyms", ()))})
        except TypeError as error:
            raise ValueError(f"not a target: {error}") from None


@dataclass(frozen=True)
class Task:
    """The policy to put into the prompt, and the target under it."""

    policy: Policy
    target: Target


@dataclass(frozen=True)
class Hiding:
    """Probabilities that a category, and that a subcategory of those left, is hidden."""

    categories: float = 0.1
    subcategories: float = 0.1


def augment(row: Row, policy: Policy, seed: int, hiding: Hiding | None = None) -> Task:
    """The row's task under a shuffled and partly hidden policy; the same for the same seed and id.

    What is hidden is drawn without regard to the row's labels, so that a short policy says nothing
    about them; one exception keeps targets certain: of a category that the row names as a whole
    ("C4"), either all subcategories are hidden or none, because a row that may belong to the hidden
    half of C4 has no one right answer. A row of a hidden subcategory is out of policy even where
    the category above it is left, for a verdict names subcategories.

    Text without a response counts as a safe response: where the format has the line, "safe" is the
    only answer there (see `answer.ResponseLine`). Raises PolicyError when the row's category is not
    in the policy.
    """
    rng = random.Random(f"{seed}:{row.id}")
    named = policy.get(row.category) if row.category is not None else None
    whole = named.id if named is not None and policy.children(named.id) else None
    shown = policy.without(_hidden(policy, hiding or Hiding(), rng, whole))
    renamed, new_ids = _shuffled(shown, rng)
    response = row.response_label
    if row.response is None and row.modality != "image":
        response = "safe"
    target = Target(row.request_label, response)
    if named is not None and target.unsafe:
        if named.id in new_ids:
            target = replace(target, category=new_ids[named.id])
        else:
            target = replace(target, ood_name=named.name, synonyms=named.synonyms)
    return Task(renamed, target)


def _hidden(policy: Policy, hiding: Hiding, rng: random.Random, whole: str | None) -> list[str]:
    """Ids to leave out; at least one leaf stays. `whole`: the category not to be hidden in part."""
    hidden: list[str] = []
    for category in policy.categories:
        if category.parent is None:
            if rng.random() < hiding.categories:
                hidden.append(category.id)
        elif rng.random() < hiding.subcategories and category.parent != whole:
            hidden.append(category.id)
    gone = {leaf.id for leaf in policy.leaves() if {leaf.id, leaf.parent} & {*hidden}}
    if len(gone) == len(policy.leaves()):
        spared = rng.choice(policy.leaves())
        return [name for name in hidden if name not in (spared.id, spared.parent)]
    return hidden


def _shuffled(policy: Policy, rng: random.Random) -> tuple[Policy, dict[str, str]]:
    """The policy in another order, numbered anew from C1 without gaps; and old id → new id."""
    new_ids: dict[str, str] = {}
    categories: list[Category] = []
    mains = [category for category in policy.categories if category.parent is None]
    for i, main in enumerate(_permuted(mains, rng), 1):
        new_ids[main.id] = f"C{i}"
        categories.append(replace(main, id=f"C{i}"))
        for j, child in enumerate(_permuted(list(policy.children(main.id)), rng), 1):
            new_ids[child.id] = f"C{i}S{j}"
            categories.append(replace(child, id=f"C{i}S{j}", parent=f"C{i}"))
    return replace(policy, categories=tuple(categories)), new_ids


def _permuted(categories: list[Category], rng: random.Random) -> Iterator[Category]:
    return iter(rng.sample(categories, len(categories)))
