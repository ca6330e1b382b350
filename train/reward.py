"""The rule-based reward of ProGuard's reinforcement learning (arXiv 2512.23573), a pure function.

    total = 1[format] x (request + response + category)

    request    1 for the right label; 2 for a picture alone, which has no response to be right about
    response   1 for the right label
    category   0 where the truth or the answer is safe throughout; else
               truth in the policy:  1 for its id, 0.5 for another id of the policy, 0 for a name
               truth hidden:         0 for an id; for a name 0.5 + the largest of
                                     0, (max - 0.7) / 0.3 x 0.5, (mean - 0.6) / 0.4 x 0.5
                                     with max and mean of its similarities to the true name and
                                     the synonyms

A part that nobody labelled gives nothing, whatever stands there, but its line must be there; so it
never draws the model to one side. The format is that of `answer.parse_answer`, and reasoning must
come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from proguard_edge.answer import Answer, is_free_name, parse_answer
from proguard_edge.errors import AnswerError
from proguard_edge.policy import Category, Policy
from proguard_edge.template import Modality
from proguard_edge.train.augment import Target
from proguard_edge.train.similarity import Similarity

MAXIMUM = 3.0

_TAG = re.compile(r"</?(?:think|thinking|answer)>")


@dataclass(frozen=True)
class Reward:
    """`total` is 0 to `MAXIMUM` for every modality; `format` is 0 or 1; the parts add up to it."""

    total: float
    format: float
    request: float
    response: float
    category: float


MALFORMED = Reward(0.0, 0.0, 0.0, 0.0, 0.0)


def reward(
    answer: str,
    target: Target,
    policy_ids: frozenset[str],
    similarity: Similarity,
    modality: Modality,
    *,
    response_line: bool | None = None,
    reasoning: bool = True,
) -> Reward:
    """What an answer earns.

    `answer`: the model's text without its end token. `policy_ids`: the ids of the task's policy.
    `response_line`: whether a `Response:` line must stand in the answer; by default in every
    modality but "image", as the released prompts ask, even where there is no response.
    `reasoning`: whether `<think>` or `<thinking>` must come first; False accepts both.

    Raises PolicyError for ids that no policy can have, ValueError for similarities that are no
    numbers.
    """
    has_response = modality != "image" if response_line is None else response_line
    said = _parsed(answer, policy_ids, has_response, reasoning)
    if said is None:
        return MALFORMED
    weight = 2.0 if modality == "image" else 1.0
    request = weight * (said.request == target.request)
    response = float(has_response and said.response == target.response)
    category = _category(said, target, policy_ids, similarity)
    return Reward(request + response + category, 1.0, request, response, category)


def similarity_bonus(similarities: list[float]) -> float:
    """0 to 0.5 for a name, of its similarities to the true name and the synonyms.

    Raises ValueError for an empty list or a number that is not one.
    """
    if not similarities or any(value != value for value in similarities):
        raise ValueError(f"similarities are {similarities}")
    best = (max(similarities) - 0.7) / 0.3 * 0.5
    mean = (sum(similarities) / len(similarities) - 0.6) / 0.4 * 0.5
    # Cosines can be rounded to slightly more than 1.
    return min(max(0.0, best, mean), 0.5)


def _parsed(
    text: str, policy_ids: frozenset[str], has_response: bool, reasoning: bool
) -> Answer | None:
    try:
        said = parse_answer(text, _stand_in(policy_ids), has_response)
    except AnswerError:
        return None
    # A tag inside the reasoning would let an answer hide another one.
    if said.reasoning is not None and _TAG.search(said.reasoning):
        return None
    return said if said.reasoning or not reasoning else None


def _category(
    said: Answer, target: Target, policy_ids: frozenset[str], similarity: Similarity
) -> float:
    if not target.unsafe or said.category is None:
        return 0.0
    is_id = said.category in policy_ids
    if target.category is not None:
        return 1.0 if said.category == target.category else 0.5 * is_id
    if target.ood_name is None or is_id or not is_free_name(said.category):
        return 0.0
    references = [target.ood_name, *target.synonyms]
    return 0.5 + similarity_bonus(similarity(said.category, references))


@lru_cache(maxsize=4096)
def _stand_in(policy_ids: frozenset[str]) -> Policy:
    """A policy with these ids, for the parser, which asks a policy for nothing else."""
    order = sorted(policy_ids, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    return Policy(
        name="ids",
        version="1",
        categories=tuple(
            Category(name, f"category {name}", parent=name.split("S")[0] if "S" in name else None)
            for name in order
        ),
    )
