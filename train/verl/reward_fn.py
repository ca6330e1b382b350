"""verl's entry to the reward: `reward.custom_reward_function.path` is this file.

verl loads it as a lone file, so it imports by absolute names only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from proguard_edge.train.augment import Target
from proguard_edge.train.reward import reward
from proguard_edge.train.similarity import SentenceSimilarity


def compute_score(
    data_source: str,  # noqa: ARG001 - verl's signature
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any],
    *,
    similarity: str,
    reasoning: bool = True,
    **_: Any,
) -> dict[str, Any]:
    """The reward of one answer and its parts, by name; `score` is what verl trains on.

    ground_truth: a `Target` as JSON. extra_info: modality, policy_ids and response_line of the
    row. similarity: folder of the embedding model. reasoning: whether it must come first.
    """
    found = reward(
        solution_str,
        Target.from_json(ground_truth),
        frozenset(str(name) for name in extra_info["policy_ids"]),
        _similarity(similarity),
        extra_info["modality"],
        response_line=bool(extra_info["response_line"]),
        reasoning=reasoning,
    )
    return {
        "score": found.total,
        "format": found.format,
        "request": found.request,
        "response": found.response,
        "category": found.category,
        "modality": extra_info["modality"],
    }


@cache
def _similarity(folder: str) -> SentenceSimilarity:
    return SentenceSimilarity(Path(folder))
